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
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

func newPublishPyPICommand(term *terminal) *cobra.Command {
	p := publishPyPICommand{term: term}
	cmd := &cobra.Command{
		Use:   "pypi DIR",
		Short: "Publish a release's Python package to a package index",
		Long: `Publish a release's Python package to a package index.

The wheels are those of a signed release folder. The command compares the files that
the index already has by digest, uploads the missing ones with twine, reads them
back, and installs the package into a fresh virtual environment. If the index has
the same bytes, there is nothing to do. If it has other bytes under one of the names,
the command stops: an index never replaces a file.

A repository is a section of .pypirc, which also holds the token; pypi and testpypi
need no section. The command installs twine from a lock into the cache folder, which
takes Python 3.10 or newer. In GitHub Actions, release.yml publishes instead, without
a token and with attestations.`,
		Example: `  go run ./ci publish pypi dist --dry-run
  go run ./ci publish pypi dist --repository testpypi`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if p.dir, err = existingDir(args[0]); err != nil {
				return err
			}
			return p.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&p.repository, "repository", "pypi", "the repository: pypi, testpypi, or a `section` of .pypirc")
	flags.StringVar(&p.config, "config-file", "", "the `file` with the repositories and their tokens (default: ~/.pypirc)")
	flags.StringVar(&p.index, "index-url", "", "`address` of the repository's index, as for pip (default: simple/ beside its address for uploads)")
	flags.StringVar(&p.python, "python", "python3", "the Python that runs twine: a `program`")
	flags.BoolVar(&p.dryRun, "dry-run", false, "say what would be done, and do nothing")
	p.signedBy.flags(cmd)
	cacheFlag(cmd, &p.cache)
	return cmd
}

// indexPatience is how long an index may take to list what was uploaded. That of the Python Package Index is cached.
const indexPatience = 5 * time.Minute

// A publishPyPICommand is one publication of the Python package under way.
type publishPyPICommand struct {
	term                              *terminal
	dir                               release.Dir
	repository, config, index, python string
	dryRun                            bool
	signedBy                          trust
	cache                             string
}

func (p *publishPyPICommand) run(ctx context.Context) error {
	folder, signer, err := openSigned(ctx, p.dir, &p.signedBy)
	if err != nil {
		return err
	}
	wheels, version, err := p.wheels(ctx, folder)
	if err != nil {
		return err
	}
	if p.cache, err = openCache(p.cache); err != nil {
		return err
	}
	python, err := pypi.FindPython(p.python)
	if err != nil {
		return console.Usage(err, "install Python 3.10 or newer, with venv; or name one with --python")
	}
	twine, err := python.Prepare(ctx, p.cache)
	if err != nil {
		return err
	}
	twine.Config = p.config
	address, err := twine.Repository(ctx, p.repository)
	if err != nil {
		return console.Usage(err, "pypi, testpypi, or a section of .pypirc with its address: repository = https://…")
	}
	index := pypi.Index{URL: p.index}
	if index.URL == "" {
		if index.URL, err = pypi.IndexOf(address); err != nil {
			return console.Usage(err, "correct it in .pypirc")
		}
	}
	plan, err := index.MakePlan(ctx, manifests.Distribution, wheels)
	if err != nil {
		return fmt.Errorf("asking %s for %s: %w", index.URL, manifests.Distribution, err)
	}
	if p.dryRun {
		p.say(index.URL, version, plan)
		return plan.Refused(index.URL)
	}
	if err := plan.Refused(index.URL); err != nil {
		return err
	}
	p.term.Notef("publish   %s %s to %s, signed by %s", manifests.Distribution, version, address, signer.By())
	if err := p.upload(ctx, twine, index, plan); err != nil {
		return err
	}
	if err := index.Await(ctx, manifests.Distribution, wheels, indexPatience); err != nil {
		return err
	}
	if err := p.install(ctx, python, index.URL, version, wheels); err != nil {
		return err
	}
	how := fmt.Sprintf("%d files, %d of them sent now", len(wheels), len(plan.Upload))
	if plan.Done() {
		how = "already published, and the same"
	}
	p.term.Printf("%s: %s %s: %s; it can be installed", index.URL, manifests.Distribution, version, how)
	return nil
}

// wheels returns the folder's wheels, the one with the client first: a user who installs before the
// other is uploaded gets that one.
func (p *publishPyPICommand) wheels(ctx context.Context, folder *publisher.Folder) (wheels []publisher.File, version string, err error) {
	var names []string
	for _, file := range folder.Files {
		if manifests.IsWheel(file.Name) {
			wheels, names = append(wheels, file), append(names, file.Name)
		}
	}
	if len(wheels) == 0 {
		return nil, "", console.Usage(fmt.Errorf("publishing %s: it has no Python package", p.dir), fmt.Sprintf("go run ./ci wheel %s, then sign it", p.dir))
	}
	found, err := p.dir.CheckWheels(ctx, folder.Release.Release, folder.Release.SourceDateEpoch)
	if err != nil {
		return nil, "", err
	}
	if len(found) > 0 {
		return nil, "", failure.Refuse(fmt.Errorf("publishing %s:\n%w", p.dir, p.dir.Joined(found)), fmt.Sprintf("go run ./ci wheel %s builds the wheels again", p.dir))
	}
	if version, _, err = wheel.Parse(names[0]); err != nil {
		return nil, "", err
	}
	slices.SortFunc(wheels, func(a, b publisher.File) int { return cmp.Compare(b.Size, a.Size) })
	return wheels, version, nil
}

// upload sends the files that are missing. After an error it asks the index whether the file
// arrived: a response can be lost, and another run can have sent it.
func (p *publishPyPICommand) upload(ctx context.Context, twine pypi.Twine, index pypi.Index, plan pypi.Plan) error {
	for _, file := range plan.Upload {
		p.term.Notef("upload    %s, %s", file.Name, measure.Bytes(file.Size))
		failed := twine.Upload(ctx, p.repository, p.dir.Path(file.Name))
		if failed == nil {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now, err := index.MakePlan(ctx, manifests.Distribution, []publisher.File{file})
		if err == nil {
			err = now.Refused(index.URL)
		}
		if err != nil {
			return errors.Join(failed, err)
		}
		if !now.Done() {
			return failed
		}
	}
	return nil
}

// install installs the published package as a user does, and checks its client against the signed
// one.
func (p *publishPyPICommand) install(ctx context.Context, python pypi.Python, index, version string, wheels []publisher.File) error {
	work, remove, err := openWork(ctx, p.cache)
	if err != nil {
		return err
	}
	defer remove()
	var sums []string
	for _, file := range wheels {
		sums = append(sums, file.SHA256)
	}
	installed, err := python.Install(ctx, index, manifests.Distribution, version, sums, filepath.Join(work, "environment"))
	if err != nil {
		return err
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil // it got the wheel without the client
	}
	contents, err := p.dir.WheelContents(ctx, filepath.Join(work, "client"), version, 0)
	if err != nil {
		return err
	}
	want, err := fs.ReadFile(contents.Client, "llcuda-fetch")
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(installed, "_bin", "llcuda-fetch"))
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("llcuda-fetch is not the one of the release")
	}
	if err != nil {
		return failure.Refuse(fmt.Errorf("trying %s %s from %s: %w", manifests.Distribution, version, index, err), "somebody changed what was published, or pip took another wheel: pip download shows which")
	}
	return nil
}

func (p *publishPyPICommand) say(index, version string, plan pypi.Plan) {
	p.term.Printf("%s %s to %s", manifests.Distribution, version, index)
	for _, part := range []struct {
		what  string
		files []publisher.File
	}{{"keep", plan.Keep}, {"differs", plan.Differ}, {"upload", plan.Upload}} {
		for _, file := range part.files {
			p.term.Printf("%-8s %-76s %10s", part.what, file.Name, measure.Bytes(file.Size))
		}
	}
	if plan.Done() {
		p.term.Printf("nothing to do")
	}
}
