package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/gguf"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// InspectOptions say what to calculate a model's needs for.
type InspectOptions struct {
	// Release is the one whose registry has the names; empty is the one installed, else the newest.
	Release string
	// Context is in tokens; 0 is hub.DefaultContext, or less where the model was trained with less.
	Context int64
	// Memory is that of GPUs, in MiB, instead of this machine's; nil is this machine's.
	Memory []int
}

// An Inspection is what is known of a model. What is not is nil, or empty.
type Inspection struct {
	// Name is that of the registry, of the repository and the file, or the file's.
	Name string `json:"name"`
	// Path is the file that llama.cpp is given; nil where it is not on this machine.
	Path         *string `json:"path"`
	Architecture *string `json:"architecture"`
	// Parameters is the exact number of weights.
	Parameters *int64 `json:"parameters"`
	// Context is what the model was trained with, in tokens.
	Context      *int64         `json:"context"`
	Embedding    *int64         `json:"embedding"`
	Layers       *int           `json:"layers"`
	Vocabulary   *int64         `json:"vocabulary"`
	Quantisation *string        `json:"quantization"`
	Size         *int64         `json:"size"` // of all parts, in bytes
	ChatTemplate *bool          `json:"chat_template"`
	Metadata     map[string]any `json:"metadata"`
	// Needs are what the whole model takes of one GPU.
	Needs *hub.Needs `json:"needs"`
	// NGL is the recommended number of layers for the GPUs, nil where there are none, and Why the
	// reason. ContextFit is the largest context with which all layers fit; 0 where they do with
	// none.
	NGL        *int   `json:"ngl"`
	ContextFit *int64 `json:"context_fit"`
	Why        string `json:"why"`
	// Registry is what the registry says of a model that it has a name for.
	Registry *matrix.Model `json:"registry"`
}

// A NotHereError is a model that is not on this machine.
type NotHereError struct{ Name string }

func (e *NotHereError) Error() string { return e.Name + " is not downloaded" }

// Hint says what helps.
func (e *NotHereError) Hint() string { return "llcuda-fetch pull " + e.Name }

// A NoFileError is the path of a model at which there is no file.
type NoFileError struct{ Path string }

func (e *NoFileError) Error() string { return "there is no file " + e.Path }

// Hint says what helps.
func (e *NoFileError) Hint() string { return "llcuda-fetch models lists the models known by name" }

// known is a value that is known if it is not zero.
func known[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}

// Inspect says what is known of models: of files, or of what Pull takes. It asks no Hub and reads
// headers alone. It gives a *NotHereError, a *NoFileError or a *NameError for one that it knows
// nothing of.
func (c *Client) Inspect(ctx context.Context, names []string, o InspectOptions) ([]Inspection, error) {
	work := inspector{Client: c, InspectOptions: o}
	work.gpus = sync.OnceValues(func() ([]int, error) { return work.gpuMemory(ctx) })
	var list []Inspection
	for _, name := range names {
		i, err := work.inspect(ctx, name)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, nil
}

// An inspector is one call of Inspect.
type inspector struct {
	*Client
	InspectOptions
	gpus func() ([]int, error) // the memory of this machine's
}

func (c *inspector) inspect(ctx context.Context, name string) (Inspection, error) {
	if launch.IsFile(name) {
		parts := hub.Parts(name)
		base := strings.TrimSuffix(filepath.Base(parts[0]), filepath.Ext(parts[0]))
		return c.files(Inspection{Name: base}, parts)
	}
	w, err := c.modelClient().parseModel(ctx, c.Release, name, hub.Weights)
	if err != nil {
		return Inspection{}, err
	}
	i := Inspection{Name: name}
	if i.Registry = w.model; i.Registry != nil {
		i.Name = i.Registry.Name
	}
	here, err := c.findCached(ctx, w)
	switch {
	case err == nil && len(here.Parts) > 0:
		return c.files(i, here.Parts)
	case err == nil:
		return c.files(i, []string{here.Path})
	case ctx.Err() != nil:
		return Inspection{}, ctx.Err()
	case i.Registry == nil:
		return Inspection{}, &NotHereError{name}
	}
	i.Size, i.Metadata = known(i.Registry.Size), map[string]any{}
	i.Why = "it is not downloaded: llcuda-fetch pull " + i.Name
	return i, nil
}

func (c *inspector) files(i Inspection, paths []string) (Inspection, error) {
	size := int64(0)
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return Inspection{}, &NoFileError{path}
		}
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("reading %s: it is not a file", path)
		}
		if err != nil {
			return Inspection{}, err
		}
		size += info.Size()
	}
	h, err := gguf.Read(paths[0], paths[1:]...)
	if err != nil {
		return Inspection{}, err
	}
	path, err := filepath.Abs(paths[0])
	if err != nil {
		return Inspection{}, err
	}
	layers, template, needs := len(h.Layers), h.ChatTemplate, hub.NeedsOf(h, c.Context)
	i.Path, i.Size, i.Architecture, i.Parameters, i.Context, i.Embedding = &path, &size, &h.Architecture, &h.Parameters, known(h.Context), known(h.Embedding)
	i.Layers, i.Vocabulary, i.Quantisation, i.ChatTemplate, i.Metadata, i.Needs = &layers, known(h.Vocabulary), known(h.Quantisation()), &template, h.Metadata, &needs
	if h.Parameters == 0 {
		i.Why = "it has no weights"
		return i, nil
	}
	memory := c.Memory
	if memory == nil {
		var none *noGPUError
		if memory, err = c.gpus(); errors.As(err, &none) {
			i.Why = none.why
			return i, nil
		}
		if err != nil {
			return i, err
		}
	}
	ngl, why := hub.Layers(h, memory, c.Context)
	fit := hub.ContextFit(h, memory)
	i.NGL, i.ContextFit, i.Why = &ngl, &fit, why
	return i, nil
}

// A noGPUError says why there is no GPU to calculate with.
type noGPUError struct{ why string }

func (e *noGPUError) Error() string { return e.why }

// gpuMemory is that of the GPUs that programs have here, in MiB: those that the current
// installation serves, or, without one, all. It gives a *noGPUError where there are none, or their
// memory is not known.
func (c *Client) gpuMemory(ctx context.Context) (memory []int, err error) {
	current, err := c.Store.Current()
	switch {
	case err == nil && current.Through == manifests.ThroughCPU:
		return nil, &noGPUError{"what is installed runs on the processor"}
	case err == nil:
		memory = current.GPUMemory
	default:
		host, _, err := c.Detect(ctx)
		if err != nil {
			return nil, err
		}
		for _, gpu := range host.GPUs {
			memory = append(memory, gpu.MemoryMiB)
		}
	}
	if len(memory) == 0 {
		return nil, &noGPUError{"no GPU was found; --memory stands for those of another machine"}
	}
	if slices.Contains(memory, 0) {
		return nil, &noGPUError{"the memory of the GPUs is not known; --memory says it"}
	}
	return memory, nil
}
