package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/changes"
)

func newCompareCommand(term *terminal) *cobra.Command {
	c := compareCommand{term: term}
	cmd := &cobra.Command{
		Use:   "compare BEFORE AFTER",
		Short: "Say what changed between two releases",
		Long: `Say what changed between two releases: llama.cpp, the bundles and what they need,
their sizes, files and speed, the CUDA runtimes, the clients and the models. Release
notes say the same. That two releases differ is not an error.

Each release is a folder, a manifest.json, or the tag of a published release, whose
signature is verified. The files come from the bills of materials; a folder that is
not signed has none, and its archives are read instead. A manifest.json alone does
not say which files and which speed belong to it.

Whether a release is what it claims to be is for verify; whether it can be built
again, byte for byte, for reproduce.`,
		Example: `  go run ./ci compare v1.1.0-runtime dist            # before dist is published
  go run ./ci compare old/manifest.json dist --json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0], args[1]) },
	}
	c.public.repositoryFlags(cmd)
	c.public.signedBy.flags(cmd)
	cacheFlag(cmd, &c.cache)
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, which has all names and exact sizes")
	return cmd
}

// A compareCommand is one compare command under way.
type compareCommand struct {
	public publicFlags // without the tag
	cache  string
	json   bool
	term   *terminal
}

func (c *compareCommand) run(ctx context.Context, before, after string) error {
	m, err := spec.Default()
	if err != nil {
		return fmt.Errorf("reading the matrix: %w", err)
	}
	var releases [2]changes.Release
	var read [2]reader
	for i, name := range []string{before, after} {
		if read[i], err = c.find(name); err != nil {
			return err
		}
	}
	for i := range releases {
		if releases[i], err = read[i](ctx); err != nil {
			return err
		}
	}
	found := changes.Compare(releases[0], releases[1], m.LlamaCPP.Repository)
	if c.json {
		return printJSON(c.term, found, true)
	}
	c.term.Printf("%s", strings.TrimSuffix(found.Markdown(), "\n"))
	return nil
}

const releaseForms = "give a folder, a manifest.json, or the tag of a published release"

// A reader reads what is compared of one release.
type reader func(context.Context) (changes.Release, error)

// find finds out whether a release is a folder, a manifest.json, or to be downloaded, and reads
// nothing yet.
func (c *compareCommand) find(name string) (reader, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return release.Dir(name).Read, nil
	case err == nil && info.Mode().IsRegular():
		return func(context.Context) (changes.Release, error) {
			r, err := release.ReadManifest(name, releaseForms)
			return changes.Release{Release: r}, err
		}, nil
	case err == nil:
		return nil, console.Usage(fmt.Errorf("%s is neither a folder nor a file", name), releaseForms)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !releaseName.MatchString(name):
		return nil, console.Usage(fmt.Errorf("%q does not exist", name), releaseForms)
	}
	at := c.public
	at.tag = name
	if err := at.check(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) (changes.Release, error) { return c.readPublic(ctx, at) }, nil
}

// readPublic reads a release that anyone can download.
func (c *compareCommand) readPublic(ctx context.Context, at publicFlags) (changes.Release, error) {
	verifier, err := at.signedBy.verifier()
	if err != nil {
		return changes.Release{}, err
	}
	cache, err := openCache(c.cache)
	if err != nil {
		return changes.Release{}, err
	}
	work, remove, err := openWork(ctx, cache)
	if err != nil {
		return changes.Release{}, err
	}
	defer remove()
	public := release.Public{Folder: at.folder()}
	r, err := public.Read(ctx, at.tag, verifier, release.Dir(work), c.term.Transfers("downloading", "downloaded").Report)
	if status, ok := errors.AsType[*transfer.StatusError](err); ok && status.Code == http.StatusNotFound {
		return r, console.Usage(fmt.Errorf("%s is not a file or folder here, nor a release of %s: %w", at.tag, at.repo, err), releaseForms)
	}
	if err != nil {
		return r, fmt.Errorf("reading %s: %w", public.Folder, err)
	}
	return r, nil
}
