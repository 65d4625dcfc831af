package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"dagger.io/dagger"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// objectsLimit is what one step's objects may take. All that an engine kept of the real host half and several SMs was
// 256 MB; GitHub keeps 10 GB of a repository's caches.
const objectsLimit = 500_000_000

// objects are what ccache keeps of one step: in a volume of the engine, and between two engines that know nothing of each
// other in a folder of this machine, as STEP.tar.
//
// Whoever can write to that folder decides what is compiled: ccache takes its word for what an object file is.
type objects struct {
	run  *stepRun
	file string // empty if nothing is kept outside of the engine
	// since is when the step began, by the engine's clock.
	since string
}

// objectsVolume is where an engine keeps what ccache keeps, by name.
const objectsVolume = "llcuda-ccache"

// withObjects mounts what ccache keeps where the stages have it.
func (b *builder) withObjects(ctr *dagger.Container) *dagger.Container {
	return ctr.WithMountedCache("/ccache", b.client.CacheVolume(b.volume))
}

// compileObjects compiles by ccache, which also knows what earlier builds left in the folder, and keeps there what was used.
func (r *stepRun) compileObjects(ctx context.Context, image, ctr *dagger.Container, script string, args ...string) (*dagger.Directory, error) {
	kept, err := r.loadObjects(ctx, image)
	if err != nil {
		return nil, err
	}
	out, err := r.compile(ctx, r.builder.withObjects(ctr), script, args...)
	if err != nil {
		return nil, err
	}
	return out, kept.keep(ctx, image)
}

// loadObjects gives the engine what earlier builds of this step left in the folder. Without a folder it does nothing.
func (r *stepRun) loadObjects(ctx context.Context, image *dagger.Container) (objects, error) {
	o := objects{run: r}
	if r.builder.objects == "" {
		return o, nil
	}
	o.file = filepath.Join(r.builder.objects, r.step.Name()+".tar")
	ctr := image
	switch _, err := os.Stat(o.file); {
	case err == nil:
		ctr = ctr.WithMountedFile("/given/objects.tar", r.builder.client.Host().File(o.file))
	case !errors.Is(err, fs.ErrNotExist):
		return o, fmt.Errorf("reading the compiler cache: %w", err)
	}
	ctr, err := o.stage(ctx, ctr, "load")
	if err != nil {
		return o, err
	}
	since, err := ctr.File("/out/since").Contents(ctx)
	o.since = strings.TrimSpace(since)
	return o, err
}

// keep replaces what the folder has by what this step compiled or took from there. A step that the engine had done before
// used nothing.
func (o objects) keep(ctx context.Context, image *dagger.Container) error {
	if o.file == "" || o.run.stats.Compiled+o.run.stats.CacheHits == 0 {
		return nil
	}
	ctr, err := o.stage(ctx, image.WithEnvVariable("LIMIT", strconv.Itoa(objectsLimit)), "keep", o.since)
	if err != nil {
		return err
	}
	partial := o.file + ".partial"
	if _, err := ctr.File("/out/objects.tar").Export(ctx, partial); err != nil {
		return fmt.Errorf("keeping the compiler cache: %w", err)
	}
	return os.Rename(partial, o.file)
}

// stage runs objects.sh, which the engine must not know from an earlier step: it has effects beyond its files.
func (o objects) stage(ctx context.Context, ctr *dagger.Container, args ...string) (*dagger.Container, error) {
	name := args[0]
	command := append([]string{"bash", "/stages/objects.sh"}, args...)
	ctr = o.run.builder.withObjects(o.run.script(ctr, "objects.sh")).WithEnvVariable("STEP", o.run.nonce)
	var seen int
	ctr, err := o.run.stage(ctx, name, ctr.WithExec(command), &seen)
	if err != nil {
		return nil, err
	}
	said, err := ctr.File("/out/said").Contents(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what the stage %s said: %w", name, err)
	}
	for line := range strings.Lines(said) {
		o.run.events(farm.Event{Stage: name, State: farm.StateLine, Line: strings.TrimSuffix(line, "\n")})
	}
	o.run.events(farm.Event{Stage: name, State: farm.StateDone})
	return ctr, nil
}
