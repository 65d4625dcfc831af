package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/bump"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
)

func newBumpCommand(term *terminal, backend Backend) *cobra.Command {
	b := bumpCommand{term: term, backend: backend}
	cmd := &cobra.Command{
		Use:   "bump",
		Short: "Move the pin of llama.cpp to its newest release",
		Long: `Move the pin of llama.cpp in matrix.yaml to its newest release, and print what
upstream changed that touches the farm: options, programs, libraries, functions of
CUDA, licenses. The text is that of a commit or pull request: a title, an empty line,
and Markdown.

The newest release is the newest tag like v0.5.0 that is at least six hours old.
Where the repository cannot be reached, it is the newest that an npm package has.
Only the values of the pin change in the file, and only if the farm can build the
new tree: if it has every option that the farm sets for the pin's tree, all programs,
and the lines that the farm's patches change.

Without anything newer it says "up to date". A pinned tag or package that leads to
other files now is refused with exit code 3.`,
		Example: `  go run ./ci bump                  # to the newest release
  go run ./ci bump --to v0.5.0      # to this one, however new it is
  go run ./ci bump --dry-run        # only prints`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return b.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&b.o.To, "to", "", "the `tag` to move to (default: the newest release)")
	cmd.Flags().BoolVar(&b.o.Back, "back", false, "allow a tag that is older than the pin")
	cmd.Flags().StringSliceVar(&b.gone, "gone", nil, "`options` that the farm sets and that the new tree may lack, comma-separated")
	cmd.Flags().StringVar(&b.o.Repository, "llama", "", "git URL or folder of llama.cpp to ask (default: the repository in matrix.yaml)")
	cmd.Flags().StringVar(&b.file, "matrix", filepath.Join("matrix", "matrix.yaml"), "the `file` with the pin")
	cmd.Flags().BoolVar(&b.dryRun, "dry-run", false, "leave the file as it is")
	cacheFlag(cmd, &b.cache)
	return cmd
}

// A bumpCommand is one bump under way.
type bumpCommand struct {
	o       farm.NextOptions
	gone    []string
	file    string
	dryRun  bool
	cache   string
	term    *terminal
	backend Backend
}

func (c *bumpCommand) run(ctx context.Context) error {
	if c.o.Back && c.o.To == "" {
		return console.Usage(errors.New("--back without --to"), "name the tag to go back to with --to")
	}
	text, err := os.ReadFile(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return console.Usage(fmt.Errorf("--matrix: there is no %s", c.file), "run it in a checkout of the repository, or name the file")
	}
	if err != nil {
		return err
	}
	if exists(c.o.Repository) {
		if c.o.Repository, err = filepath.Abs(c.o.Repository); err != nil {
			return err
		}
	}
	set, err := patches.Default()
	if err != nil {
		return err
	}
	if c.cache, err = openCache(c.cache); err != nil {
		return err
	}
	c.o.Now = time.Now()
	found, err := bump.Find(ctx, bump.Options{
		NextOptions: c.o, Matrix: text, Patches: set, Cache: filepath.Join(c.cache, "sources"), Gone: c.gone, Buildable: c.backend.Buildable,
		Progress: func(text string) { c.term.Notef("source    %s", text) },
	})
	if err != nil {
		return err
	}
	if found.Changed() && len(found.Problems) == 0 && !c.dryRun {
		if err := c.write(ctx, text, found.Matrix); err != nil {
			return err
		}
	}
	if found.Changed() {
		c.term.Printf("%s", found.Text())
		return errors.Join(found.Problems...)
	}
	for _, note := range found.Notes {
		c.term.Warnf("%s", note)
	}
	c.term.Printf("up to date: llama.cpp %s, %s of %s", found.Before.Version, found.Before.Ref, found.Before.Repository)
	return nil
}

// write changes the file, unless that would take somebody's own changes along or away.
func (c *bumpCommand) write(ctx context.Context, before, after []byte) error {
	changed, err := farm.Uncommitted(ctx, c.file)
	if err != nil {
		return err
	}
	if changed {
		return console.Usage(fmt.Errorf("%s has changes that are not committed: the new pin would be mixed with them", c.file), "commit or stash them, or only look, with --dry-run")
	}
	now, err := os.ReadFile(c.file)
	if err == nil && !bytes.Equal(now, before) {
		err = fmt.Errorf("%s was changed while the new pin was looked for: repeat the command", c.file)
	}
	if err := errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	return release.WriteFile(c.file, after) // the point of no return
}
