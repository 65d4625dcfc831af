package gate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

// The tests of llama-bench, in tokens: its own defaults.
const (
	promptTokens    = 512
	generatedTokens = 128
)

// benchLimit is the time that one run may take: far more than the largest model needs on the slowest GPU.
const benchLimit = 20 * time.Minute

// BenchOptions say what is measured.
type BenchOptions struct {
	Models      []string // files
	Rounds      int      // how often each bundle gets its turn
	Repetitions int      // how often each test runs in a turn
	// CPU accepts that no GPU is used.
	CPU bool
}

// A Turn is one run of llama-bench, of all there will be.
type Turn struct {
	Round, Rounds int
	Bundle        int // its index
	Model         string
}

// Bench measures bundles in turn (A B A B), so that what changes on the machine meanwhile hits all of them. It calls
// progress before each turn. Bundles that did not measure the same are a *failure.Refusal, and so is one that used no GPU.
func Bench(ctx context.Context, bundles []*Bundle, o BenchOptions, progress func(Turn)) (manifests.Benchmark, error) {
	result := manifests.Benchmark{SchemaVersion: manifests.SchemaVersion, CPU: variants.CPU(), Rounds: o.Rounds, Repetitions: o.Repetitions}
	for _, b := range bundles {
		result.Bundles = append(result.Bundles, manifests.BenchmarkBundle{Name: b.Name, SHA256: b.SHA256, Release: b.Metadata.Release, LlamaCPP: b.Metadata.LlamaCPP, Row: b.Metadata.Row})
	}
	for _, file := range o.Models {
		model, err := describeModel(ctx, file)
		if err != nil {
			return result, err
		}
		if slices.ContainsFunc(result.Models, func(m manifests.BenchmarkModel) bool { return m.Name == model.Name }) {
			return result, failure.Input(fmt.Errorf("two models are named %s", model.Name), "give each model once, or rename one")
		}
		result.Models = append(result.Models, model)
	}
	rates := map[string][][]float64{} // by model and test: for each bundle, a speed for each round
	key := func(model, test string) string { return model + " " + test }
	var first []settings // for each model
	for round := range o.Rounds {
		for i, bundle := range bundles {
			for m, file := range o.Models {
				model := &result.Models[m]
				progress(Turn{Round: round + 1, Rounds: o.Rounds, Bundle: i, Model: model.Name})
				runs, err := bundle.bench(ctx, file, o)
				if err != nil {
					return result, err
				}
				if len(first) == m {
					first = append(first, runs[0].settings)
					model.Type, result.GPU = runs[0].ModelType, runs[0].GPU
				}
				for _, run := range runs {
					if diff := first[m].compare(run.settings); diff != "" {
						return result, failure.Refuse(fmt.Errorf("measuring %s with %s: not the same was measured as with %s: %s", bundle.Name, model.Name, bundles[0].Name, diff),
							"speeds of different models, settings or GPUs say nothing about the bundles")
					}
					at := key(model.Name, run.test())
					if rates[at] == nil {
						rates[at] = make([][]float64, len(bundles))
					}
					rates[at][i] = append(rates[at][i], run.TokensPerSecond)
				}
			}
		}
	}
	for _, model := range result.Models {
		for _, test := range tests() {
			result.Tests = append(result.Tests, manifests.BenchmarkTest{Model: model.Name, Test: test, Speeds: speeds(rates[key(model.Name, test)])})
		}
	}
	return result, nil
}

// tests are the names of the tests, in their order.
func tests() []string {
	return []string{"pp" + strconv.Itoa(promptTokens), "tg" + strconv.Itoa(generatedTokens)}
}

// speeds are the spreads of the bundles' speeds, and of the ratios in each round to the first bundle's.
func speeds(rates [][]float64) []manifests.BenchmarkSpeed {
	var list []manifests.BenchmarkSpeed
	for i, mine := range rates {
		speed := manifests.BenchmarkSpeed{TokensPerSecond: spread(mine, 2)}
		if i > 0 {
			ratios := make([]float64, len(mine))
			for round := range mine {
				ratios[round] = mine[round] / rates[0][round]
			}
			ratio := spread(ratios, 4)
			speed.Ratio = &ratio
		}
		list = append(list, speed)
	}
	return list
}

// spread is the spread of some numbers, rounded to decimals.
func spread(numbers []float64, decimals int) manifests.Spread {
	sorted := slices.Sorted(slices.Values(numbers))
	n := len(sorted)
	scale := math.Pow10(decimals)
	round := func(x float64) float64 { return math.Round(x*scale) / scale }
	return manifests.Spread{Median: round((sorted[(n-1)/2] + sorted[n/2]) / 2), Min: round(sorted[0]), Max: round(sorted[n-1])}
}

// CheckSpeed is a *failure.Refusal that names the tests in which a bundle's median ratio to the first one is below least.
func CheckSpeed(b manifests.Benchmark, least float64) error {
	var slower []string
	for _, test := range b.Tests {
		for i, speed := range test.Speeds {
			if speed.Ratio != nil && speed.Ratio.Median < least {
				slower = append(slower, fmt.Sprintf("%s, %s: %s (%s) has %.3f times the speed of %s (%s)", test.Model, test.Test,
					b.Bundles[i].Name, b.Bundles[i].Release, speed.Ratio.Median, b.Bundles[0].Name, b.Bundles[0].Release))
			}
		}
	}
	if len(slower) == 0 {
		return nil
	}
	return failure.Refuse(fmt.Errorf("comparing speeds: below %v times that of the first bundle:\n%s", least, strings.Join(slower, "\n")),
		"measure again with more --rounds, on a machine that does nothing else; if it stays, find the change that slowed it down")
}

func describeModel(ctx context.Context, file string) (manifests.BenchmarkModel, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return manifests.BenchmarkModel{}, failure.Input(err, "give a GGUF file with --model")
	}
	if err != nil {
		return manifests.BenchmarkModel{}, err
	}
	defer f.Close()
	sum := archive.NewDigester(io.Discard)
	if _, err := io.Copy(sum, archive.WithContext(ctx, f)); err != nil {
		return manifests.BenchmarkModel{}, fmt.Errorf("reading %s: %w", file, err)
	}
	return manifests.BenchmarkModel{Name: filepath.Base(file), Size: sum.Digest().Size, SHA256: sum.Digest().SHA256}, nil
}

// settings are what two runs must have in common, in the words of llama-bench's JSON. What only names things, like
// model_type, may change from one release of llama.cpp to the next.
type settings struct {
	GPU       string `json:"gpu_info"`
	ModelSize int64  `json:"model_size"`
	Params    int64  `json:"model_n_params"`
	Batch     int    `json:"n_batch"`
	Ubatch    int    `json:"n_ubatch"`
	Threads   int    `json:"n_threads"`
	TypeK     string `json:"type_k"`
	TypeV     string `json:"type_v"`
	Layers    int    `json:"n_gpu_layers"`
}

// compare says in which setting two runs differ; empty if in none.
func (s settings) compare(with settings) string {
	for _, field := range []struct {
		name        string
		mine, other any
	}{
		{"gpu_info", s.GPU, with.GPU}, {"model_size", s.ModelSize, with.ModelSize}, {"model_n_params", s.Params, with.Params},
		{"n_batch", s.Batch, with.Batch}, {"n_ubatch", s.Ubatch, with.Ubatch}, {"n_threads", s.Threads, with.Threads},
		{"type_k", s.TypeK, with.TypeK}, {"type_v", s.TypeV, with.TypeV}, {"n_gpu_layers", s.Layers, with.Layers},
	} {
		if field.mine != field.other {
			return fmt.Sprintf("%s is %v instead of %v", field.name, field.other, field.mine)
		}
	}
	return ""
}

// A benchRun is one test's result, as llama-bench prints it.
type benchRun struct {
	settings
	Backends        string    `json:"backends"`
	ModelType       string    `json:"model_type"`
	Prompt          int       `json:"n_prompt"`
	Generated       int       `json:"n_gen"`
	TokensPerSecond float64   `json:"avg_ts"`
	Samples         []float64 `json:"samples_ts"`
}

// test is the name of the run's test; empty if it is none of those asked for.
func (r benchRun) test() string {
	switch {
	case r.Prompt == promptTokens && r.Generated == 0:
		return tests()[0]
	case r.Prompt == 0 && r.Generated == generatedTokens:
		return tests()[1]
	}
	return ""
}

// bench runs llama-bench once.
func (b *Bundle) bench(parent context.Context, model string, o BenchOptions) ([]benchRun, error) {
	ctx, cancel := context.WithTimeout(parent, benchLimit)
	defer cancel()
	cmd := b.command(ctx, "llama-bench", "-o", "json", "-m", model, "-p", strconv.Itoa(promptTokens), "-n", strconv.Itoa(generatedTokens),
		"-r", strconv.Itoa(o.Repetitions), "-ngl", "99")
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &log, time.Second
	err := cmd.Run()
	fail := func(format string, args ...any) ([]benchRun, error) {
		text := fmt.Sprintf(format, args...)
		if log := lastLines(log.String()); log != "" {
			text += "\n" + log
		}
		return nil, failure.Refuse(fmt.Errorf("measuring %s with %s: llama-bench: %s", b.Name, filepath.Base(model), text),
			"bench needs an NVIDIA GPU that the bundle has code for; --cpu measures the CPU, for trying out")
	}
	switch {
	case parent.Err() != nil:
		return nil, parent.Err()
	case ctx.Err() != nil:
		return fail("it did not end within %s", benchLimit)
	case err != nil:
		return fail("%s", variants.Ending(err))
	}
	var runs []benchRun
	if err := json.Unmarshal(out.Bytes(), &runs); err != nil {
		return fail("its output is not JSON: %v", err)
	}
	if problem := checkRuns(runs, o); problem != "" {
		return fail("%s", problem)
	}
	return runs, nil
}

// checkRuns says what is wrong with a run's results; empty if nothing is.
func checkRuns(runs []benchRun, o BenchOptions) string {
	var names []string
	for _, run := range runs {
		names = append(names, run.test())
		switch {
		case !o.CPU && (run.GPU == "" || !slices.Contains(strings.Split(run.Backends, ","), cudaBackend)):
			return fmt.Sprintf("it used no GPU: its backends are %q, and its GPUs %q", run.Backends, run.GPU)
		case !(run.TokensPerSecond > 0) || len(run.Samples) != o.Repetitions:
			return fmt.Sprintf("%v tokens per second in %d repetitions, want %d", run.TokensPerSecond, len(run.Samples), o.Repetitions)
		}
	}
	if !slices.Equal(names, tests()) {
		return fmt.Sprintf("it ran the tests %q instead of %q", names, tests())
	}
	return ""
}
