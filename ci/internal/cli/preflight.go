package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// What a build takes on this machine, with room to spare over what the real
// llama.cpp takes.
const (
	fetchedBytes = 400_000_000   // what is downloaded or made besides the builder's packages: its base, the web UI's packages
	hostBytes    = 600_000_000   // source, host half
	halfBytes    = 180_000_000   // one device half, kept until all are built
	linkedBytes  = 350_000_000   // the archives of a CUDA runtime for one SM major, or its libraries
	wholeBytes   = 900_000_000   // the same of one for all
	bundleBytes  = 100_000_000   // a bundle's archives
	storeBytes   = 6_300_000_000 // the builder, unpacked in the store of an engine of this machine
	stepsBytes   = 700_000_000   // what its steps leave there
	// What the builder of each further toolkit takes there, which has wheels and no static libraries.
	moreStoreBytes = 2_000_000_000
)

// releaseName is what a release may be called: it is a git tag and part of URLs.
var releaseName = regexp.MustCompile(`^v?[0-9A-Za-z][0-9A-Za-z._-]*$`)

// preflight finds whatever would make the build fail later, before it costs time.
func (b *buildCommand) preflight(ctx context.Context) error {
	if err := b.choose(); err != nil {
		return err
	}
	switch {
	case b.release == "":
		return console.Usage(errors.New("--release is missing"), "name the release, like --release v1.1.0-runtime")
	case !releaseName.MatchString(b.release):
		return console.Usage(fmt.Errorf("--release %q: letters, digits and ._- only", b.release), "like --release v1.1.0-runtime")
	case b.jobs < 0:
		return console.Usage(fmt.Errorf("--jobs %d is negative", b.jobs), "leave it out to run as many as cores and memory allow")
	case slices.Contains(b.engines, ""):
		return console.Usage(errors.New("--engine: one of the names is empty"), "like --engine unix:///run/a.sock,tcp://10.0.0.2:1234")
	}
	if err := b.chooseSteps(); err != nil {
		return err
	}
	if err := b.exposed(ctx); err != nil {
		return err
	}
	if err := b.openObjects(); err != nil {
		return err
	}
	if err := b.openCache(); err != nil {
		return err
	}
	if err := b.openLedger(); err != nil {
		return err
	}
	if err := b.writable(); err != nil {
		return err
	}
	if len(b.only) == 0 {
		if err := b.nothingForeign(); err != nil {
			return err
		}
	}
	if err := b.room(); err != nil {
		return err
	}
	if err := b.resolveSource(ctx); err != nil {
		return err
	}
	b.term.Notef("source    llama.cpp %s, commit %s, %s", b.source.Version, orNone(b.source.Commit), b.source.Digest)
	for _, patch := range b.source.Patches {
		b.term.Notef("source    patched by %s", patch.Name)
	}
	if len(b.only) > 0 {
		return nil
	}
	return b.sameRelease(ctx)
}

// choose reads the matrix and selects what to build, unless that was done before.
func (b *buildCommand) choose() (err error) {
	if b.targets == nil {
		b.matrix, b.targets, err = b.selection.targets()
	}
	return err
}

// resolveSource finds the source tree, unless that was done before.
func (b *buildCommand) resolveSource(ctx context.Context) (err error) {
	if b.source.Dir == "" {
		b.source, err = b.resolve(ctx, b.matrix, b.term)
	}
	return err
}

// openLedger opens the ledger in the cache, unless that was done before.
func (b *buildCommand) openLedger() (err error) {
	if b.known == nil {
		b.known, err = release.OpenLedger(b.cache)
	}
	return err
}

// openObjects makes the folder of --compiler-cache. It refuses it for a tag in GitHub Actions, where builds are signed for
// all users: nobody can tell from an object whether the source compiles to it.
func (b *buildCommand) openObjects() error {
	switch {
	case b.objects == "":
		return nil
	case len(b.parts) > 0:
		return console.Usage(errors.New("--compiler-cache has no effect with --parts, which compiles nothing"), "leave it out")
	case os.Getenv("GITHUB_ACTIONS") == "true" && os.Getenv("GITHUB_REF_TYPE") == "tag":
		return console.Usage(errors.New("--compiler-cache is not allowed for a tag in GitHub Actions: a release must not contain objects from another run"), "leave it out; only builds that nobody publishes may use it")
	}
	if err := os.MkdirAll(b.objects, 0o755); err != nil {
		return console.Usage(fmt.Errorf("--compiler-cache %s: %w", b.objects, err), "give a folder that you may write to")
	}
	return nil
}

// exposed refuses engines at public addresses in GitHub Actions, where builds are signed for all
// users, and warns of them elsewhere.
func (b *buildCommand) exposed(ctx context.Context) error {
	hosts := engine.Exposed(ctx, b.engines)
	if len(hosts) == 0 {
		return nil
	}
	at := strings.Join(hosts, ", ")
	if os.Getenv("GITHUB_ACTIONS") == "true" {
		return console.Usage(fmt.Errorf("the engine %s is at a public address, and its connections are neither encrypted nor authenticated: anyone in between could change what is released", at),
			"reach it through a tunnel (ssh -L, WireGuard, Tailscale) or in a private network, or leave it out: then the runner starts an engine of its own")
	}
	b.term.Warnf("the engine %s is at a public address: its connections are neither encrypted nor authenticated; use a tunnel (ssh -L, WireGuard)", at)
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// writable makes the release folder and tries it.
func (b *buildCommand) writable() error {
	err := b.dir.TryWriting()
	if err != nil {
		return console.Usage(fmt.Errorf("--out %s: %w", b.dir, err), "give a folder that you may write to")
	}
	return nil
}

// nothingForeign refuses a release folder that could not be described once all is built.
func (b *buildCommand) nothingForeign() error {
	strange, err := b.dir.Foreign()
	if err != nil {
		return err
	}
	if len(strange) > 0 {
		return console.Usage(fmt.Errorf("--out %s holds files that are not part of a release: %s", b.dir, strings.Join(strange, ", ")), "move it out of the folder, or use another --out")
	}
	return nil
}

// room compares what the build takes with what is free.
func (b *buildCommand) room() error {
	need := map[uint64]int64{} // by device
	free := map[uint64]int64{}
	where := map[uint64]string{}
	n, more := int64(len(b.targets)), int64(len(b.toolkits())-1)
	var runtimes int64
	for _, runtime := range b.runtimes() {
		if runtime.IsLinked() {
			runtimes += linkedBytes
		} else {
			runtimes += wholeBytes
		}
	}
	type part struct {
		dir   string
		bytes int64
	}
	parts := []part{
		{string(b.dir), runtimes + n*bundleBytes},
		{b.cache, hostBytes + n*halfBytes + 2*runtimes}, // their libraries, and their kept archives
	}
	compiles := len(b.parts) == 0
	if compiles {
		packages, err := b.backend.ToDownload(b.toolkits(), builderCache(b.cache))
		if err != nil {
			return err
		}
		parts = append(parts, part{b.cache, packages + fetchedBytes})
	}
	if store := b.backend.Store(b.engines); compiles && store != "" {
		bytes := int64(stepsBytes)
		dir := store
		for !exists(dir) { // the folder that it will be made in
			bytes, dir = storeBytes+more*moreStoreBytes+stepsBytes, filepath.Dir(dir)
		}
		parts = append(parts, part{dir, bytes})
	}
	for _, part := range parts {
		var stat unix.Stat_t
		var fs unix.Statfs_t
		if err := errors.Join(unix.Stat(part.dir, &stat), unix.Statfs(part.dir, &fs)); err != nil {
			return fmt.Errorf("measuring the free space of %s: %w", part.dir, err)
		}
		need[stat.Dev] += part.bytes
		free[stat.Dev] = int64(fs.Bavail) * fs.Bsize
		where[stat.Dev] = part.dir
	}
	for device, bytes := range need {
		if free[device] < bytes {
			return &spaceError{where[device], bytes, free[device]}
		}
	}
	b.term.Notef("disk      this build takes up to %s here", measure.Bytes(need[deviceOf(b.cache)]))
	return nil
}

// runtimes are the CUDA runtimes of the targets, each once.
func (b *buildCommand) runtimes() []matrix.Runtime {
	var list []matrix.Runtime
	for _, target := range b.targets {
		toolkit, _ := b.matrix.ToolkitOf(target) // Check has seen to it
		if runtime := toolkit.Runtime(target.Row()); !slices.Contains(list, runtime) {
			list = append(list, runtime)
		}
	}
	return list
}

// spaceError is a disk that would be full before the build is done.
type spaceError struct {
	dir        string
	need, free int64
}

func (e *spaceError) Error() string {
	return fmt.Sprintf("the build needs %s free on the disk of %s, which has %s", measure.Bytes(e.need), e.dir, measure.Bytes(e.free))
}

func (e *spaceError) Is(target error) bool { return target == error(unix.ENOSPC) }

// exists reports whether anything of that name exists.
func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func deviceOf(dir string) uint64 {
	var stat unix.Stat_t
	if unix.Stat(dir, &stat) != nil {
		return 0
	}
	return stat.Dev
}

// sameRelease checks that the files in the folder that are not rebuilt belong to
// the same release: a folder with files of two could not be described.
func (b *buildCommand) sameRelease(ctx context.Context) error {
	names, err := b.dir.Names()
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !manifests.IsArchive(name) || b.replaces(name) })
	const hint = "use another --out, or move these files away"
	if names, err = b.removeDamaged(ctx, names); err != nil {
		return err
	}
	others, err := b.dir.Artifacts(ctx, names, b.known)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return console.Usage(fmt.Errorf("reading what --out %s holds already: %w", b.dir, err), hint)
	}
	mine := b.identity(farm.Recipe{}) // as far as no recipe decides
	var known []manifests.Toolkit
	for _, toolkit := range b.matrix.Toolkits {
		known = append(known, manifests.Toolkit{CUDA: toolkit.CUDA, NVCC: toolkit.NVCC})
	}
	err = release.Common{
		Release: mine.Release, LlamaCPP: mine.LlamaCPP, Epoch: mine.Build.SourceDateEpoch,
		Toolkits: known,
	}.Strangers(others)
	if err != nil {
		return console.Usage(fmt.Errorf("--out %s holds files that do not belong to this build:\n%w", b.dir, err), hint)
	}
	return nil
}

// removeDamaged removes archives of the CUDA runtimes that this build makes if they are damaged, and returns the other
// names: a release with a damaged one could not be described.
func (b *buildCommand) removeDamaged(ctx context.Context, names []string) ([]string, error) {
	var left []string
	for _, name := range names {
		if b.makesRuntime(name) {
			_, err := b.dir.Artifacts(ctx, []string{name}, b.known)
			if isAs[*bundler.AuditError](err) {
				b.term.Warnf("removing a damaged archive, which this build makes again: %v", err)
				if err := os.Remove(b.dir.Path(name)); err != nil {
					return nil, err
				}
				continue
			}
		}
		left = append(left, name)
	}
	return left, nil
}

// makesRuntime reports whether a name is that of an archive of a CUDA runtime that this build makes, whatever its digest.
func (b *buildCommand) makesRuntime(name string) bool {
	return manifests.KindOf(name) == manifests.KindCUDART && slices.ContainsFunc(b.runtimes(), func(r matrix.Runtime) bool {
		stem := manifests.Stem(name)
		return stem[:strings.LastIndexByte(stem, '-')] == manifests.RuntimeTop(r)
	})
}

// replaces reports whether this build writes the archive of that name.
func (b *buildCommand) replaces(name string) bool {
	return manifests.KindOf(name) == manifests.KindBundle && slices.ContainsFunc(b.targets, func(t matrix.Target) bool {
		return manifests.Stem(name) == manifests.BundleName(t.Row())
	})
}

// openWork makes a folder for unfinished trees.
func openWork(ctx context.Context, cache string) (string, func(), error) {
	return bundler.Scratch(ctx, filepath.Join(cache, "work"), "work")
}
