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
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/goreleaser"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/installer"
)

func newClientCommand(term *terminal, backend Backend) *cobra.Command {
	c := clientCommand{what: "llcuda-fetch"}
	cmd := &cobra.Command{
		Use:   "client DIR",
		Short: "Package llcuda-fetch into a release folder, with install.sh",
		Long: `Package llcuda-fetch into a release folder, with install.sh.

The program is built from the commit that is checked out, for Linux on amd64 and
arm64; the same commit gives the same bytes. In GitHub Actions the numeric IDs of the
repository and its owner are stamped into it, so that it does not trust a later owner
of the same names. install.sh carries the archives' digests. The first run compiles
goreleaser, which takes up to ten minutes.

An engine compiles llcuda-probe, the C program that asks CUDA for the GPUs, in the
builder image. The compiler there is pinned, so the bytes are the same wherever the
command runs.`,
		Example: `  go run ./ci client dist
  go run ./ci client dist --snapshot    # of the working tree as it is, to try it`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			c.term, c.backend, c.dir = term, backend, dir
			return c.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&c.release, "release", "", "release to stamp into the program (default: that of the folder's manifest.json)")
	cmd.Flags().BoolVar(&c.snapshot, "snapshot", false, "package the working tree as it is, for testing; --version of the program says so")
	engineFlags(cmd, &c.engines, &c.base)
	cacheFlag(cmd, &c.cache)
	return cmd
}

// A clientCommand is one client command under way, or one wheel command: what it packages differs.
type clientCommand struct {
	what     string // for messages
	release  string
	snapshot bool
	engines  []string
	base     string
	cache    string
	term     *terminal
	backend  Backend
	dir      release.Dir

	repositoryID, ownerID string
}

func (c *clientCommand) run(ctx context.Context) error {
	if err := c.named(); err != nil {
		return err
	}
	checkout, err := c.checkout(ctx)
	if err != nil {
		return err
	}
	if c.repositoryID, c.ownerID, err = c.numbers(); err != nil {
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
	if err := c.put(manifests.InstallerName, script); err != nil {
		return err
	}
	c.term.Notef("next: go run ./ci wheel %s puts it into the Python package; go run ./ci manifest %s, or go run ./ci sign %s, describes it, too", c.dir, c.dir, c.dir)
	return nil
}

// named finds the release's name.
func (c *clientCommand) named() error {
	if c.release == "" || exists(c.dir.Path(manifests.ManifestName)) {
		described, err := c.dir.Manifest()
		if isAs[*failure.InputError](err) {
			return console.Usage(err, hintFor(err)+"; or give --release")
		}
		if err != nil {
			return err
		}
		if cmp.Or(c.release, described.Release) != described.Release {
			return console.Usage(fmt.Errorf("%s is of release %s, not %s", c.dir, described.Release, c.release), "leave --release out, or give another folder")
		}
		c.release = described.Release
	}
	if !releaseName.MatchString(c.release) {
		return console.Usage(fmt.Errorf("--release %q: letters, digits and ._- only", c.release), "like --release v1.1.0-runtime")
	}
	return nil
}

// checkout is the commit to build from, which must be all there is.
func (c *clientCommand) checkout(ctx context.Context) (goreleaser.Checkout, error) {
	checkout, err := goreleaser.Open(ctx, ".", string(c.dir))
	if err != nil {
		return checkout, console.Usage(err, "run it in a git checkout of the repository")
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
		return checkout, console.Usage(fmt.Errorf("packaging %s: the working tree is not as commit %.12s:\n%s", c.what, checkout.Commit, shown), "commit or stash it; --snapshot takes it as it is, for trying out")
	}
	if tagged := checkout.Tagged(ctx, c.release); tagged != "" && tagged != checkout.Commit {
		return checkout, console.Usage(fmt.Errorf("packaging %s: %s is the tag of commit %.12s, and %.12s is checked out", c.what, c.release, tagged, checkout.Commit), "git checkout "+c.release)
	}
	return checkout, nil
}

// numberForm is a number of GitHub's.
var numberForm = regexp.MustCompile(`^[1-9][0-9]{0,19}$`)

// numbers returns the IDs of the repository that this workflow runs in and of its owner, which the
// program then requires of every signature. Elsewhere they are not known for certain: numbers says
// so, and the program does not check them.
func (c *clientCommand) numbers() (repository, owner string, err error) {
	if c.snapshot {
		return "", "", nil
	}
	if os.Getenv("GITHUB_ACTIONS") != "true" {
		c.term.Warnf("llcuda-fetch is packaged without the numbers of %s and its owner: it will trust a later owner of these names; the release workflow packages it with them", manifests.Repository)
		return "", "", nil
	}
	if in := os.Getenv("GITHUB_REPOSITORY"); !strings.EqualFold(in, manifests.Repository) {
		return "", "", console.Usage(fmt.Errorf("packaging llcuda-fetch: it trusts the workflows of %s, and this one runs in %s", manifests.Repository, in), "change Repository in manifests/origin.go; --snapshot packages it for trying out")
	}
	repository, owner = os.Getenv("GITHUB_REPOSITORY_ID"), os.Getenv("GITHUB_REPOSITORY_OWNER_ID")
	if !numberForm.MatchString(repository) || !numberForm.MatchString(owner) {
		return "", "", console.Usage(fmt.Errorf("packaging llcuda-fetch: GITHUB_REPOSITORY_ID is %q and GITHUB_REPOSITORY_OWNER_ID %q, and both must be numbers", repository, owner), "GitHub sets both in every job; without them clients would trust a later owner of the same names")
	}
	if manifests.RepositoryID != "" && manifests.RepositoryID != repository || manifests.OwnerID != "" && manifests.OwnerID != owner {
		return "", "", console.Usage(fmt.Errorf("packaging llcuda-fetch: manifests/origin.go has the numbers %s and %s, and GitHub says %s and %s", manifests.RepositoryID, manifests.OwnerID, repository, owner), "correct those in manifests/origin.go, or leave them empty")
	}
	return repository, owner, nil
}

// pack runs goreleaser and shows what it is at.
func (c *clientCommand) pack(ctx context.Context, checkout goreleaser.Checkout, work string) (string, error) {
	view := showProgress(c.term, time.Now, false)
	defer view.close()
	return checkout.Package(ctx, goreleaser.Options{
		Release: c.release, WorkDir: work, Snapshot: c.snapshot, RepositoryID: c.repositoryID, OwnerID: c.ownerID,
		Probe: func(ctx context.Context, source, dest string) error {
			return c.build(ctx, farm.StepProbe, farm.Source{Dir: source}, dest, view)
		},
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

// build has an engine run one step for what is packaged: the probe, or the wheels.
func (c *clientCommand) build(ctx context.Context, kind farm.StepKind, source farm.Source, dest string, view *progress) error {
	m, err := spec.Default()
	if err != nil {
		return err
	}
	session, err := c.backend.Open(ctx, engine.Options{
		Hosts: c.engines, Base: c.base, CacheDir: builderCache(c.cache), Toolkits: m.Toolkits[:1], Progress: view.event,
	})
	view.leave(engineStep)
	if err != nil {
		return err
	}
	defer session.Close() // its error could change nothing: the result is on this machine
	_, err = session.Builders[0].Build(ctx, farm.Step{Kind: kind, Source: source, Recipe: session.Recipes[0]}, dest, view.event)
	view.leave(string(kind))
	return err
}

// put writes a file to the folder. An existing one with the same bytes is left alone.
func (c *clientCommand) put(name string, data []byte) error {
	how := "is as it was"
	old, err := os.ReadFile(c.dir.Path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil || !bytes.Equal(old, data) {
		if err := release.WriteFile(c.dir.Path(name), data); err != nil {
			return err
		}
		how = measure.Bytes(int64(len(data)))
	}
	c.term.Printf("%s: %s", filepath.Join(string(c.dir), name), how)
	return nil
}
