package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/python"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

func newWheelCommand(term *terminal, backend Backend) *cobra.Command {
	c := clientCommand{what: "the Python package"}
	cmd := &cobra.Command{
		Use:   "wheel DIR",
		Short: "Package the Python package into a release folder, with its client",
		Long: `Package the Python package into a release folder: a wheel for Linux on x86-64 with
the folder's own llcuda-fetch in it, byte for byte, and one for any platform
without.

The package is taken from the commit that is checked out, and built by hatchling
on an engine, without a network: the same commit and the same client give the
same bytes. What comes out is checked before it is kept; a wheel of more than
10 MB is refused.`,
		Example: `  go run ./ci wheel dist
  go run ./ci wheel dist --snapshot    # of the working tree as it is, to try it`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			c.term, c.backend, c.dir = term, backend, dir
			return c.wheels(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&c.snapshot, "snapshot", false, "package the working tree as it is, for testing")
	engineFlags(cmd, &c.engines, &c.base)
	cacheFlag(cmd, &c.cache)
	return cmd
}

// wheels builds the Python package around the client that the folder holds.
func (c *clientCommand) wheels(ctx context.Context) error {
	described, err := c.dir.Manifest()
	if err != nil {
		return err
	}
	c.release = described.Release
	checkout, err := c.checkout(ctx)
	if err != nil {
		return err
	}
	version, err := python.Version()
	if err != nil {
		return err
	}
	if c.cache, err = openCache(c.cache); err != nil {
		return err
	}
	work, remove, err := openWork(ctx, c.cache)
	if err != nil {
		return err
	}
	defer remove()
	clone, err := checkout.Clone(ctx, work, c.snapshot)
	if err != nil {
		return err
	}
	date, err := checkout.Date(ctx)
	if err != nil {
		return err
	}
	contents, err := c.dir.WheelContents(ctx, filepath.Join(work, "client"), described.Release, described.SourceDateEpoch)
	if err != nil {
		return err
	}
	project, made := filepath.Join(work, "project"), filepath.Join(work, "wheels")
	if err := errors.Join(layProject(clone, project, contents), os.Mkdir(made, 0o755)); err != nil {
		return fmt.Errorf("laying out the Python package: %w", err)
	}
	view := showProgress(c.term, time.Now, false)
	err = c.build(ctx, farm.StepWheel, farm.Source{Dir: project, Epoch: date}, made, view)
	view.close()
	if err != nil {
		return err
	}
	found, err := release.Dir(made).Names()
	if err != nil {
		return err
	}
	if want := slices.Sorted(slices.Values(wheel.Names(version))); !slices.Equal(found, want) {
		return fmt.Errorf("building the Python package: hatchling made %q, want %q", found, want)
	}
	wheels := map[string][]byte{}
	for _, name := range found {
		if wheels[name], err = os.ReadFile(filepath.Join(made, name)); err != nil {
			return err
		}
		if problems := wheel.Check(name, wheels[name], contents); len(problems) > 0 {
			return failure.Refuse(fmt.Errorf("building %s: %s", name, strings.Join(problems, "\n")),
				"what is packaged is manifests/python, by hatch_build.py there, and the folder's "+wheel.Client())
		}
	}
	for _, name := range found {
		if err := c.put(name, wheels[name]); err != nil {
			return err
		}
		sum := sha256.Sum256(wheels[name])
		c.term.Notef("sha256    %s", hex.EncodeToString(sum[:]))
	}
	if err := c.otherWheels(found); err != nil {
		return err
	}
	c.term.Notef("next: go run ./ci manifest %s, or go run ./ci sign %s, which describes them, too", c.dir, c.dir)
	return nil
}

// layProject makes the folder that hatchling sees: the package's sources, and what hatch_build.py takes in.
func layProject(clone, project string, contents wheel.Contents) error {
	source := os.DirFS(filepath.Join(clone, "manifests", "python"))
	write := func(name string, data []byte, mode fs.FileMode) error {
		to := filepath.Join(project, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, data, mode)
	}
	copyTree := func(from fs.FS, root string, mode func(fs.FileMode) (string, fs.FileMode)) error {
		return fs.WalkDir(from, root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			into, as := mode(info.Mode())
			data, err := fs.ReadFile(from, name)
			if err != nil {
				return err
			}
			return write(into+name, data, as)
		})
	}
	plain := func(fs.FileMode) (string, fs.FileMode) { return "", 0o644 }
	for _, name := range []string{"pyproject.toml", "hatch_build.py", "README.md", "llcuda"} {
		if err := copyTree(source, name, plain); err != nil {
			return err
		}
	}
	if err := copyTree(os.DirFS(clone), "LICENSE", plain); err != nil {
		return err
	}
	if err := copyTree(contents.Client, "licenses", plain); err != nil {
		return err
	}
	entries, err := fs.ReadDir(contents.Client, ".")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if entry.Type().IsRegular() && info.Mode()&0o111 != 0 {
			if err := copyTree(contents.Client, entry.Name(), func(fs.FileMode) (string, fs.FileMode) { return "client/", 0o755 }); err != nil {
				return err
			}
		}
	}
	return write("client/"+manifests.SBOMName(wheel.Client()), contents.Bill, 0o644)
}

// otherWheels removes those of other versions: a release has one.
func (c *clientCommand) otherWheels(mine []string) error {
	names, err := c.dir.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if manifests.IsWheel(name) && !slices.Contains(mine, name) {
			c.term.Warnf("removed %s: it is of another version", c.dir.Path(name))
			if err := os.Remove(c.dir.Path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}
