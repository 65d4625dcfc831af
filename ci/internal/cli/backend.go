package cli

import (
	"context"
	"path/filepath"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Backend is everything that the commands need of engines.
type Backend interface {
	// Buildable reports why a source cannot be built, as a *farm.SourceError; nil if it can.
	Buildable(src farm.Source) error
	// Open finds and connects engines and readies the builder image on this
	// machine. An engine that cannot be had gives an *engine.UnavailableError.
	Open(ctx context.Context, opts engine.Options) (*engine.Session, error)
	// Recipes are those that the engine of this version would have for the source, on the base
	// image: of steps that were run elsewhere. It needs no engine.
	Recipes(src farm.Source, toolkits []matrix.Toolkit, base, engine string) ([]farm.Recipe, error)
	// Store is the folder where the engine that Open would take for the hosts keeps its
	// cache, if that is on this machine and known; else it is empty.
	Store(hosts []string) string
	// ToDownload is how many bytes of the packages of the toolkits' builder images cacheDir lacks.
	ToDownload(toolkits []matrix.Toolkit, cacheDir string) (int64, error)
	// BuildPaths are the folders of the builder that no bundle may name.
	BuildPaths() []string
	// BuiltIn is a built-in engine of this machine, running or not.
	BuiltIn(opts builtin.Options) (BuiltIn, error)
}

// BuiltIn starts and stops one built-in engine.
type BuiltIn interface {
	Up(ctx context.Context, progress func(string)) (builtin.Info, error)
	Status(ctx context.Context) (builtin.Info, error)
	Down(ctx context.Context) error
	// Prune frees what the engine keeps, and says how many bytes that were.
	Prune(ctx context.Context) (int64, error)
}

// builderCache is where the packages of the builder images are kept in the folder of --cache.
func builderCache(cache string) string { return filepath.Join(cache, "builder") }

// Engines are the real engines.
func Engines() Backend { return daggerEngines{} }

type daggerEngines struct{}

func (daggerEngines) Open(ctx context.Context, opts engine.Options) (*engine.Session, error) {
	return engine.Open(ctx, opts)
}

func (daggerEngines) Buildable(src farm.Source) error { return engine.Buildable(src) }

func (daggerEngines) Recipes(src farm.Source, toolkits []matrix.Toolkit, base, version string) ([]farm.Recipe, error) {
	return engine.Recipes(src, toolkits, base, version)
}

func (daggerEngines) Store(hosts []string) string { return engine.Store(hosts) }

func (daggerEngines) ToDownload(toolkits []matrix.Toolkit, cacheDir string) (int64, error) {
	return engine.ToDownload(toolkits, cacheDir)
}

func (daggerEngines) BuildPaths() []string { return engine.BuildPaths() }

func (daggerEngines) BuiltIn(opts builtin.Options) (BuiltIn, error) {
	control, err := builtin.New(opts)
	if err != nil {
		return nil, console.Usage(err, "go run ./ci engine --help")
	}
	return control, nil
}
