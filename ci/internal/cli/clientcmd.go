package cli

import (
	"bytes"
	"cmp"
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
	"github.com/waqasm86/llcuda-farm/ci/internal/goreleaser"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher/installer"
)

func clientCommand(term *terminal) *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "client DIR",
		Short: "Package llcuda-fetch into a release folder, with install.sh",
		Long: `Package llcuda-fetch into a release folder, with install.sh.

The program is built from the commit that is checked out, for linux on amd64 and
arm64; the same commit gives the same bytes. install.sh carries the archives'
digests. The first run compiles goreleaser, which takes up to ten minutes.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			c.term, c.dir = term, dir
			return c.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&c.release, "release", "", "the release that the program says it is of (default: that of the folder's manifest.json)")
	cmd.Flags().BoolVar(&c.snapshot, "snapshot", false, "package the working tree as it is, for trying out; the program says so")
	return cmd
}

// client is one client command under way.
type client struct {
	release  string
	snapshot bool
	term     *terminal
	dir      releaseDir
}

func (c *client) run(ctx context.Context) error {
	if err := c.named(); err != nil {
		return err
	}
	checkout, err := c.checkout(ctx)
	if err != nil {
		return err
	}
	cache, err := openCache("")
	if err != nil {
		return err
	}
	work, remove, err := openWork(cache)
	if err != nil {
		return err
	}
	defer remove()
	made, err := c.pack(ctx, checkout, work)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(made)
	if err != nil {
		return err
	}
	defer root.Close()
	script, err := installer.Script(c.release, root)
	if err != nil {
		return err
	}
	for _, arch := range installer.Architectures() {
		data, err := root.ReadFile(installer.Archive(arch))
		if err != nil {
			return err
		}
		if err := c.put(installer.Archive(arch), data); err != nil {
			return err
		}
	}
	if err := c.put(installer.Name, script); err != nil {
		return err
	}
	c.term.notef("next: go run ./ci manifest %s, or go run ./ci sign %s, which describes it, too", c.dir, c.dir)
	return nil
}

// named finds the release's name.
func (c *client) named() error {
	f, err := os.Open(c.dir.path(manifests.ManifestName))
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.release == "":
		return &usageError{fmt.Errorf("%s does not say of which release it is: it has no %s", c.dir, manifests.ManifestName), "go run ./ci manifest " + string(c.dir) + " writes it; or give --release"}
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		defer f.Close()
		release, err := manifests.Decode(f)
		if err != nil {
			return &refusal{fmt.Errorf("reading %s: %w", f.Name(), err), "go run ./ci manifest " + string(c.dir) + " writes it anew"}
		}
		if cmp.Or(c.release, release.Release) != release.Release {
			return &usageError{fmt.Errorf("%s is of release %s, not %s", c.dir, release.Release, c.release), "leave --release out, or give another folder"}
		}
		c.release = release.Release
	}
	if !releaseName.MatchString(c.release) {
		return &usageError{fmt.Errorf("--release %q: letters, digits and ._- only", c.release), "like --release v1.1.0-runtime"}
	}
	return nil
}

// checkout is the commit to build from, which must be all there is.
func (c *client) checkout(ctx context.Context) (goreleaser.Checkout, error) {
	checkout, err := goreleaser.Open(ctx, ".")
	if err != nil {
		return checkout, &usageError{err, "run it in a git checkout of the repository"}
	}
	if c.snapshot {
		return checkout, nil
	}
	if n := len(checkout.Changed); n > 0 {
		const show = 5
		shown := strings.Join(checkout.Changed[:min(n, show)], "\n")
		if n > show {
			shown += fmt.Sprintf("\nand %d more", n-show)
		}
		return checkout, &usageError{fmt.Errorf("packaging llcuda-fetch: the working tree is not as commit %.12s:\n%s", checkout.Commit, shown), "commit or stash it; --snapshot takes it as it is, for trying out"}
	}
	if tagged := checkout.Tagged(ctx, c.release); tagged != "" && tagged != checkout.Commit {
		return checkout, &usageError{fmt.Errorf("packaging llcuda-fetch: %s is the tag of commit %.12s, and %.12s is checked out", c.release, tagged, checkout.Commit), "git checkout " + c.release}
	}
	return checkout, nil
}

// pack runs goreleaser and shows what it is at.
func (c *client) pack(ctx context.Context, checkout goreleaser.Checkout, work string) (string, error) {
	view := showProgress(c.term, time.Now, false)
	defer view.close()
	return checkout.Package(ctx, goreleaser.Options{
		Release: c.release, WorkDir: work, Snapshot: c.snapshot,
		Stage: func(name string) func(error) {
			event := farm.Event{Step: "client", Stage: name, State: farm.StateStart}
			view.event(event)
			return func(err error) {
				event.State = farm.StateDone
				if err != nil {
					event.State = farm.StateFailed
				}
				view.event(event)
			}
		},
	})
}

// put has a file in the folder. One that is there already with the same bytes is left alone.
func (c *client) put(name string, data []byte) error {
	how := "is as it was"
	old, err := os.ReadFile(c.dir.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !bytes.Equal(old, data) {
		if err := writeFile(c.dir.path(name), data); err != nil {
			return err
		}
		how = fmt.Sprintf("%.1f MB", float64(len(data))/1e6)
	}
	c.term.printf("%s: %s", filepath.Join(string(c.dir), name), how)
	return nil
}
