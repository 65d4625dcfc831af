package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/gate"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// The parts of a llama.cpp tree that test-backend-ops is made of.
const (
	opsSource  = "tests/test-backend-ops.cpp"
	opsHeaders = "ggml/include"
)

func newOpsCommand(term *terminal, backend Backend) *cobra.Command {
	c := opsCommand{clientCommand: clientCommand{term: term, backend: backend}}
	cmd := &cobra.Command{
		Use:   "ops BUNDLE FILE",
		Short: "Compile the program with which check-ops compares operations",
		Long: `Compile llama.cpp's test-backend-ops, with which check-ops compares operations, into
FILE. BUNDLE is the archive of any bundle of the release: the program is linked with
its libraries, and compiled from the same llama.cpp, on an engine.

It is not part of a release.`,
		Example: `  go run ./ci ops dist/llcuda-bins-sm75.tar.zst test-backend-ops`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.bundle, c.file = args[0], args[1]
			return c.compile(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&c.llama, "llama", "", "llama.cpp of the bundle, as for build (default: the pin of matrix.yaml)")
	engineFlags(cmd, &c.engines, &c.base)
	cacheFlag(cmd, &c.cache)
	return cmd
}

// An opsCommand is one ops command under way.
type opsCommand struct {
	clientCommand
	bundle, file string
	llama        string
}

func (c *opsCommand) compile(ctx context.Context) error {
	m, err := spec.Default()
	if err != nil {
		return fmt.Errorf("reading the matrix: %w", err)
	}
	if c.cache, err = openCache(c.cache); err != nil {
		return err
	}
	work, remove, err := openWork(ctx, c.cache)
	if err != nil {
		return err
	}
	defer remove()
	if err := os.MkdirAll(filepath.Dir(c.file), 0o755); err != nil {
		return err
	}
	bundle, err := gate.Open(ctx, work, c.bundle, gate.OpenOptions{CPU: true})
	if err != nil {
		return err
	}
	chosen := selection{llama: c.llama, cache: c.cache}
	src, err := chosen.resolve(ctx, m, c.term)
	if err != nil {
		return err
	}
	if of := bundle.Metadata.LlamaCPP; commitOf(src) != of.Commit {
		return console.Usage(fmt.Errorf("%s is of llama.cpp %s, commit %s, and the source is commit %s", bundle.Name, of.Version, of.Commit, commitOf(src)),
			"name the bundle's llama.cpp with --llama, or build the bundle again")
	}
	project, made := filepath.Join(work, "ops"), filepath.Join(work, "made")
	if err := errors.Join(os.Mkdir(made, 0o755), layOps(src.Dir, bundle.Libraries(), project)); err != nil {
		return fmt.Errorf("laying out %s: %w", opsSource, err)
	}
	view := showProgress(c.term, time.Now, false)
	err = c.build(ctx, farm.StepOps, farm.Source{Dir: project}, made, view)
	view.close()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(filepath.Join(made, "test-backend-ops"))
	if err != nil {
		return err
	}
	if err := release.WriteFile(c.file, program); err != nil {
		return err
	}
	c.term.Printf("%s: %s", c.file, measure.Bytes(int64(len(program))))
	c.term.Notef("next, on a machine with a GPU: go run ./ci check-ops --bundle %s --ops %s", c.bundle, c.file)
	return nil
}

// layOps makes the folder that the stage sees: nothing else of the tree can touch it.
func layOps(tree, libraries, project string) error {
	if err := os.CopyFS(filepath.Join(project, "include"), os.DirFS(filepath.Join(tree, filepath.FromSlash(opsHeaders)))); err != nil {
		return err
	}
	source, err := os.ReadFile(filepath.Join(tree, filepath.FromSlash(opsSource)))
	if errors.Is(err, fs.ErrNotExist) {
		return &farm.SourceError{Given: tree, Problem: "it has no " + opsSource, Hint: "give a whole tree of llama.cpp with --llama"}
	}
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(project, filepath.Base(opsSource)), source, 0o644); err != nil {
		return err
	}
	entries, err := os.ReadDir(libraries)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(project, "lib"), 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "libggml.so.") && !strings.HasPrefix(entry.Name(), "libggml-base.so.") || !entry.Type().IsRegular() {
			continue
		}
		data, err := os.ReadFile(filepath.Join(libraries, entry.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(project, "lib", entry.Name()), data, 0o755); err != nil {
			return err
		}
	}
	return nil
}
