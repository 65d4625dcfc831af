package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

const (
	// leftOutName is the file in a bundle's folder that says which of its CPU variants are left
	// out, and why.
	leftOutName = "left-out.json"
	// variantLimit is the time in which a variant must compute a few tokens of a tiny model, which
	// takes a tenth of a second.
	variantLimit = 30 * time.Second
)

// A LeftOut is a CPU variant of a bundle that fails on a kind of CPU. The link by which programs
// find it is gone.
type LeftOut struct {
	Variant string `json:"variant"`
	CPU     string `json:"cpu"`
	Problem string `json:"problem"`
}

func (o LeftOut) String() string {
	return fmt.Sprintf("the CPU variant %s is left out: on %s %s", o.Variant, o.CPU, o.Problem)
}

// LeftOut are the CPU variants that an installation does without.
func (s *Store) LeftOut(i Install) []LeftOut { return readLeftOut(s.Dir(i)) }

func readLeftOut(bundle string) []LeftOut {
	var list []LeftOut
	data, err := os.ReadFile(filepath.Join(bundle, leftOutName))
	if err != nil || json.Unmarshal(data, &list) != nil {
		return nil // what is missing is then damage
	}
	return list
}

// withoutLeftOut are the files of a bundle without the links to variants that are left out and
// gone.
func withoutLeftOut(files, found []manifests.File, out []LeftOut) []manifests.File {
	return slices.DeleteFunc(slices.Clone(files), func(f manifests.File) bool {
		there := slices.ContainsFunc(found, func(have manifests.File) bool { return have.Path == f.Path })
		return !there && slices.ContainsFunc(out, func(o LeftOut) bool {
			return f.Link != "" && filepath.Base(f.Path) == variants.File(o.Variant)
		})
	})
}

// TryVariants has an installation compute on the CPU, on the variant that llama.cpp picks. What
// CPUs and hypervisors say of themselves is not always so (llama.cpp issues 28328 and 28756): a
// variant that crashes, hangs or ends badly is left out, and the next best is tried. The bundle is
// as before if none works.
//
// Variants that were left out before are tried again, but for those that fail on another kind of
// CPU: a store can serve several machines.
func (l *Locked) TryVariants(ctx context.Context, i Install) ([]LeftOut, error) {
	return l.tryVariants(ctx, i, variantLimit)
}

func (l *Locked) tryVariants(ctx context.Context, i Install, limit time.Duration) ([]LeftOut, error) {
	bundle, err := variants.Open(l.Dir(i))
	if err != nil || len(bundle.Variants) == 0 {
		return nil, err
	}
	cpu := variants.CPU()
	kept := slices.DeleteFunc(l.LeftOut(i), func(o LeftOut) bool { return o.CPU == cpu })
	candidates := slices.DeleteFunc(slices.Clone(bundle.Variants), func(name string) bool {
		return slices.ContainsFunc(kept, func(o LeftOut) bool { return o.Variant == name })
	})
	t, err := l.newVariantTrial(bundle, l.Programs(i).Environ(os.Environ()), limit)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(t.stage.Dir)
	var failed []LeftOut
	for {
		loaded, err := t.try(ctx, candidates...)
		var problem *ProbeError
		if err == nil {
			break
		}
		if !errors.As(err, &problem) {
			return nil, err
		}
		bad := []LeftOut{{loaded, cpu, problem.Problem}}
		if loaded == "" { // it got nowhere: which one it was shows when each is alone
			if bad, err = t.tryEach(ctx, candidates, cpu); err != nil {
				return nil, err
			}
		}
		failed = append(failed, bad...)
		candidates = slices.DeleteFunc(candidates, func(name string) bool {
			return slices.ContainsFunc(bad, func(o LeftOut) bool { return o.Variant == name })
		})
		if len(bad) == 0 || len(candidates) == 0 {
			problem.Problem += fmt.Sprintf(", and so on every CPU variant that %s can run", cpu)
			problem.Way = "nothing can be computed on this CPU; if it is a virtual machine, another CPU model in its settings may help. The previous installation is unchanged"
			return nil, problem
		}
	}
	return failed, l.leaveOut(l.Dir(i), bundle, append(kept, failed...))
}

// variantTrial is a stage and a model in it.
type variantTrial struct {
	stage   variants.Stage
	environ []string
	limit   time.Duration
}

const trialModel = "tiny.gguf"

func (l *Locked) newVariantTrial(bundle variants.Bundle, environ []string, limit time.Duration) (variantTrial, error) {
	dir, err := os.MkdirTemp(l.path(stagingDir), "trial-")
	if err != nil {
		return variantTrial{}, err
	}
	stage, err := bundle.Stage(dir)
	if err != nil {
		return variantTrial{}, err
	}
	var model bytes.Buffer
	if err := tinygguf.Write(&model, tinygguf.Options{Types: tinygguf.Types()}); err != nil {
		return variantTrial{}, err
	}
	return variantTrial{stage, environ, limit}, os.WriteFile(filepath.Join(dir, trialModel), model.Bytes(), 0o644)
}

// try computes on the best of these variants, and says which one that was, as far as it got.
func (t variantTrial) try(ctx context.Context, names ...string) (loaded string, err error) {
	if err := t.stage.Use(names...); err != nil {
		return "", err
	}
	limit, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	// A prompt and single tokens take different kernels; two threads, since each has its own state.
	cmd, err := t.stage.Command(limit, t.environ, "llama-bench", "-m", trialModel, "-p", "32", "-n", "2", "-r", "1", "-ngl", "0", "-t", "2", "--no-warmup")
	if err != nil {
		return "", err
	}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	loaded = variants.Loaded(out.String())
	fail := func(problem string) (string, error) {
		return loaded, &ProbeError{Command: "llama-bench, on the CPU", Problem: problem, Output: lastLines(out.String())}
	}
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case limit.Err() != nil:
		return fail(fmt.Sprintf("it did not end within %s", t.limit))
	case err != nil:
		return fail(variants.Ending(err))
	case loaded == "":
		return fail("it loaded no CPU variant")
	}
	return loaded, nil
}

// tryEach tries variants one by one and gives those that crash. A variant that needs a feature that
// the CPU lacks is not even loaded, and its program ends in order.
func (t variantTrial) tryEach(ctx context.Context, names []string, cpu string) ([]LeftOut, error) {
	var bad []LeftOut
	for _, name := range names {
		var problem *ProbeError
		loaded, err := t.try(ctx, name)
		if err != nil && !errors.As(err, &problem) {
			return nil, err
		}
		if err != nil && (loaded != "" || !strings.Contains(problem.Problem, "exit code")) {
			bad = append(bad, LeftOut{name, cpu, problem.Problem})
		}
	}
	return bad, nil
}

// leaveOut takes away the links to these variants, gives back all others, and keeps a record. Links
// are restored before the record says so and removed after it does: if the process is killed in
// between, nothing counts as missing.
func (l *Locked) leaveOut(dir string, bundle variants.Bundle, out []LeftOut) error {
	programs := filepath.Join(dir, bundle.Programs)
	var gone []string
	for _, name := range bundle.Variants {
		link := filepath.Join(programs, variants.File(name))
		if slices.ContainsFunc(out, func(o LeftOut) bool { return o.Variant == name }) {
			gone = append(gone, link)
			continue
		}
		err := os.Symlink(filepath.Join("..", "..", launch.LibrariesDir, variants.File(name)), link)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("giving back the CPU variant %s: %w", name, err)
		}
	}
	record := filepath.Join(dir, leftOutName)
	if len(out) == 0 {
		if err := os.Remove(record); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	err = l.replaceFile(record, append(data, '\n'))
	for _, link := range gone {
		if err == nil {
			if err = os.Remove(link); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("leaving out CPU variants: %w", err)
	}
	return nil
}
