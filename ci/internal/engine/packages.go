package engine

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"dagger.io/dagger"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/image"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/npm"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/pypi"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/docker/wheel"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// packages downloads what the web UI is built from: no stage has a network.
func (r *stepRun) packages(ctx context.Context, lockFile string) (npm.Packages, error) {
	lock, err := os.ReadFile(lockFile)
	if err != nil {
		return npm.Packages{}, fmt.Errorf("reading the web UI's lock file: %w", err)
	}
	const stage = "npm"
	var packages npm.Packages
	err = r.fetch(stage, func() (cached bool, err error) {
		opts := npm.OptionsFromEnv(os.Getenv)
		opts.Progress = func(at measure.Progress) {
			r.events(farm.Event{Stage: stage, State: farm.StateProgress, Done: int(at.Done), Total: int(at.Total)})
		}
		packages, err = npm.Fetch(ctx, lock, r.builder.cacheDir, opts)
		return packages.Downloaded == 0, err
	})
	return packages, err
}

// fetch reports the events of a stage that downloads files to this machine.
func (r *stepRun) fetch(stage string, do func() (cached bool, err error)) error {
	r.events(farm.Event{Stage: stage, State: farm.StateStart})
	cached, err := do()
	if err != nil {
		r.events(farm.Event{Stage: stage, State: farm.StateFailed})
		return err
	}
	r.events(farm.Event{Stage: stage, State: farm.StateDone, Cached: cached})
	return nil
}

// wheel is the Python package, built by Debian's Python and hatchling.
func (r *stepRun) wheel(ctx context.Context, builder *dagger.Container) (*dagger.Directory, error) {
	python, packages, err := r.python(ctx)
	if err != nil {
		return nil, err
	}
	host := r.builder.client.Host()
	return r.offline(ctx, "wheel", r.script(builder, "wheel.sh").
		WithMountedDirectory("/python", host.Directory(python.Dir, dagger.HostDirectoryOpts{Include: python.Names})).
		WithMountedDirectory("/wheels", host.Directory(packages.Dir, dagger.HostDirectoryOpts{Include: packages.Names})).
		WithMountedDirectory(srcDir, host.Directory(r.step.Source.Dir)).
		WithEnvVariable("SOURCE_DATE_EPOCH", strconv.FormatInt(r.step.Source.Epoch.Unix(), 10)),
		"/stages/wheel.sh")
}

// python downloads Python and what builds the package.
func (r *stepRun) python(ctx context.Context) (python, packages pypi.Packages, err error) {
	lock, err := wheel.DefaultLock()
	if err != nil {
		return python, packages, err
	}
	err = r.fetch("python", func() (bool, error) {
		opts := image.MirrorsFromEnv(os.Getenv)
		opts.Snapshot = wheel.Snapshot()
		if err := image.Fetch(ctx, lock, r.builder.cacheDir, opts); err != nil {
			return false, fmt.Errorf("fetching Python's packages: %w", err)
		}
		packages, err = pypi.Fetch(ctx, wheel.Requirements, r.builder.cacheDir, pypi.OptionsFromEnv(os.Getenv))
		return packages.Downloaded == 0, err
	})
	python.Dir = image.FilesDir(r.builder.cacheDir)
	for _, p := range lock {
		python.Names = append(python.Names, p.SHA256)
	}
	return python, packages, err
}
