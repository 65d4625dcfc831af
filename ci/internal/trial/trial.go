// Package trial runs every CPU variant of a bundle that this machine's CPU can run, and compares
// what they compute with the plainest one: code that was never executed is not known to run.
//
// The program try beside it calls it, in a container, for the host half of a build; ci's try command
// calls it for a bundle on any machine. Given a bundle's folder, Run returns a Report, and calls
// back with each variant's Result. Each variant scores the next token of one prompt twice, in
// llama-server on a generated model with matrices of every type of tinygguf: the prompt in one
// batch, which uses one set of kernels, and one token more, which uses another.
//
// The package uses no network, changes nothing in the bundle and prints nothing.
package trial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

const (
	// tolerance is how far a variant's logarithm of a token's probability may be from the plainest variant's. Those of
	// llama.cpp 0.5.0 differ by up to 0.11, since each rounds in its own way, and the tokens' own spread over 9 to 14.
	tolerance = 0.5
	// limit is the time in which a variant must start and score, which takes half a second.
	limit = time.Minute
	// plainest is the variant that needs nothing but x86-64.
	plainest = "x64"

	promptTokens = 40
	allTypes     = "all types"
	modelSuffix  = ".gguf"
	socket       = "s.sock"
)

// A Result is how one variant did.
type Result struct {
	Variant string
	Lacking bool    // this CPU cannot run it
	Off     float64 // the greatest difference from the plainest variant
	Problem string  // empty if it did well
}

func (r Result) String() string {
	switch {
	case r.Problem != "":
		return fmt.Sprintf("the CPU variant %s fails: %s", r.Variant, r.Problem)
	case r.Lacking:
		return fmt.Sprintf("the CPU variant %s was not run: this CPU lacks something it needs", r.Variant)
	}
	return fmt.Sprintf("the CPU variant %s computes; its scores differ by up to %.3f", r.Variant, r.Off)
}

// A Report is how all variants did.
type Report struct {
	CPU     string
	Results []Result // the plainest variant first, then ascending
}

// Lacking are the variants that this CPU cannot run.
func (r Report) Lacking() []string {
	var names []string
	for _, result := range r.Results {
		if result.Lacking {
			names = append(names, result.Variant)
		}
	}
	return names
}

// FailedError is a bundle with variants that do not work.
type FailedError struct {
	CPU      string
	Variants []string
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("trying the CPU variants on %s: not working: %s", e.CPU, strings.Join(e.Variants, ", "))
}

// Hint is the way out.
func (e *FailedError) Hint() string {
	return "a patch in matrix/patches can mend a variant; a virtual machine may also promise instructions that it does not deliver, so try another CPU"
}

// Err is a *FailedError where a variant does not work.
func (r Report) Err() error {
	failed := &FailedError{CPU: r.CPU}
	for _, result := range r.Results {
		if result.Problem != "" {
			failed.Variants = append(failed.Variants, result.Variant)
		}
	}
	if len(failed.Variants) == 0 {
		return nil
	}
	return failed
}

// Run tries all variants of a bundle and calls progress with each result. The error means that the
// trial itself failed; what a variant does wrong is in the Report.
func Run(ctx context.Context, dir string, progress func(Result)) (Report, error) {
	t, err := newTrial(dir)
	if err != nil {
		return Report{}, fmt.Errorf("trying the CPU variants: %w", err)
	}
	defer os.RemoveAll(t.stage.Dir)
	report := Report{CPU: variants.CPU()}
	for _, name := range t.names {
		result, err := t.variant(ctx, name)
		if err != nil {
			return report, fmt.Errorf("trying the CPU variant %s: %w", name, err)
		}
		report.Results = append(report.Results, result)
		progress(result)
		switch {
		case name == plainest && result.Lacking:
			return report, fmt.Errorf("trying the CPU variants: this CPU cannot run %s, which the others are compared with", plainest)
		case name == plainest && result.Problem != "":
			return report, nil
		}
	}
	return report, nil
}

type trial struct {
	stage    variants.Stage
	names    []string
	baseline map[string]scores // of the plainest variant, by model
}

func newTrial(dir string) (*trial, error) {
	bundle, err := variants.Open(dir)
	if err != nil {
		return nil, err
	}
	at := slices.Index(bundle.Variants, plainest)
	if at < 0 {
		return nil, fmt.Errorf("%s has the CPU variants %q, and none of them is %s, which the others are compared with", dir, bundle.Variants, plainest)
	}
	work, err := os.MkdirTemp("", "llcuda-trial-")
	if err != nil {
		return nil, err
	}
	t := &trial{names: append([]string{plainest}, slices.Delete(slices.Clone(bundle.Variants), at, at+1)...), baseline: map[string]scores{}}
	if t.stage, err = bundle.Stage(work); err != nil {
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	for _, model := range append([]string{allTypes}, tinygguf.Types()...) {
		types := []string{model}
		if model == allTypes {
			types = tinygguf.Types()
		}
		var text bytes.Buffer
		err := tinygguf.Write(&text, tinygguf.Options{Types: types})
		if err == nil {
			err = os.WriteFile(filepath.Join(work, model+modelSuffix), text.Bytes(), 0o644)
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(work))
		}
	}
	return t, nil
}

// variant tries one variant. If it fails, models of one type each show which kernels fail.
func (t *trial) variant(ctx context.Context, name string) (Result, error) {
	result := Result{Variant: name}
	err := t.stage.Use(name)
	if err == nil {
		result.Problem, err = t.loads(ctx, name)
	}
	if err == nil && result.Problem == "" {
		result.Lacking, err = t.lacking(ctx, name)
	}
	if err != nil || result.Problem != "" || result.Lacking {
		return result, err
	}
	off, problem, err := t.model(ctx, name, allTypes)
	result.Off, result.Problem = off, problem
	if err != nil || problem == "" || name == plainest {
		return result, err
	}
	var types []string
	for _, model := range tinygguf.Types() {
		_, problem, err := t.model(ctx, name, model)
		if err != nil {
			return result, err
		}
		if problem != "" {
			types = append(types, model)
		}
	}
	if len(types) > 0 {
		result.Problem += ", with matrices of " + strings.Join(types, ", ")
	}
	return result, nil
}

// loads has a program start with the variant's library in it, all symbols bound: llama.cpp skips a library that cannot be
// loaded without a word, as it does one that the CPU cannot run, and loads them all to ask which fits best.
func (t *trial) loads(parent context.Context, name string) (problem string, err error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	cmd, err := t.stage.Command(ctx, os.Environ(), "llama-server", "--version")
	if err != nil {
		return "", err
	}
	cmd.Env = append(cmd.Env, "LD_BIND_NOW=1", "LD_PRELOAD="+filepath.Join(filepath.Dir(cmd.Path), variants.File(name)))
	out, err := cmd.CombinedOutput()
	switch {
	case parent.Err() != nil:
		return "", parent.Err()
	case ctx.Err() != nil:
		return fmt.Sprintf("it cannot be loaded within %s", limit), nil
	case err != nil:
		return fmt.Sprintf("it cannot be loaded: %s\n%s", variants.Ending(err), lastLines(string(out))), nil
	case bytes.Contains(out, []byte("cannot be preloaded")):
		return "it cannot be loaded\n" + lastLines(string(out)), nil
	}
	return "", nil
}

// lacking reports whether the CPU cannot run a variant, according to the variant itself: llama-bench
// names what it loaded, and exits normally if that is nothing. Any other exit is left to score to
// find and name.
func (t *trial) lacking(parent context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	cmd, err := t.stage.Command(ctx, os.Environ(), "llama-bench", "-m", allTypes+modelSuffix, "-p", "1", "-n", "0", "-r", "1", "-ngl", "0", "-t", "1", "--no-warmup")
	if err != nil {
		return false, err
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch loaded := variants.Loaded(string(out)); {
	case parent.Err() != nil:
		return false, parent.Err()
	case loaded == name:
		return false, nil
	case errors.As(err, &exit) && exit.Exited() && loaded == "":
		return true, nil
	case errors.As(err, &exit):
		return false, nil
	default:
		return false, cmp.Or(err, fmt.Errorf("llama-bench loaded the variant %q:\n%s", loaded, lastLines(string(out))))
	}
}

// model scores with one model and compares with the plainest variant, which scores first where it has not yet.
func (t *trial) model(ctx context.Context, name, model string) (off float64, problem string, err error) {
	if _, ok := t.baseline[model]; !ok && name != plainest {
		if err := t.stage.Use(plainest); err != nil {
			return 0, "", err
		}
		if t.baseline[model], problem, err = t.score(ctx, model); err != nil || problem != "" {
			return 0, "", cmp.Or(err, fmt.Errorf("the variant %s, which the others are compared with, fails with matrices of %s: %s", plainest, model, problem))
		}
		if err := t.stage.Use(name); err != nil {
			return 0, "", err
		}
	}
	got, problem, err := t.score(ctx, model)
	if err != nil || problem != "" {
		return 0, problem, err
	}
	if name == plainest {
		t.baseline[model] = got
	}
	off, problem = got.compare(t.baseline[model])
	return off, problem, nil
}
