package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/gate"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func newBenchCommand(term *terminal) *cobra.Command {
	c := benchCommand{term: term}
	cmd := &cobra.Command{
		Use:   "bench --bundle FILE... --model FILE...",
		Short: "Compare the speed of bundles on this machine's GPU",
		Long: `Compare the speed of bundles on this machine's GPU: llama-bench of each bundle in turn
(A B A B), with every model. The first bundle is the one that the others are compared
with. A ratio is that of the speeds in one round; printed are the median of the rounds,
and the least and the greatest.

With --at-least 0.95 it exits with 3 if a median is below that. A run that used no GPU
is refused, and so are bundles that did not measure the same.

The CUDA runtime of each bundle is the one that the manifest.json beside it names,
unless --runtime gives another. It needs no engine, repository or network.`,
		Example: `  go run ./ci bench --bundle old/llcuda-bins-sm90.tar.zst --bundle dist/llcuda-bins-sm90.tar.zst --model model.gguf
  go run ./ci bench --bundle dist/llcuda-bins-sm90.tar.zst --model model.gguf --json dist/` + manifests.BenchmarkName + `    # becomes part of the release`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&c.bundles, "bundle", nil, "`file` of a bundle's archive; repeatable, the first is the baseline")
	flags.StringArrayVar(&c.options.Models, "model", nil, "`file` of a model; repeatable")
	flags.StringVar(&c.open.Runtime, "runtime", "", "`file` of the CUDA runtime's archive, for all bundles (default: the one beside each)")
	flags.IntVar(&c.options.Rounds, "rounds", 5, "how often each bundle gets its turn")
	flags.IntVar(&c.options.Repetitions, "repetitions", 3, "how often each test runs in a turn")
	flags.Float64Var(&c.least, "at-least", 0, "refuse a bundle with a median `ratio` below this, such as 0.95")
	flags.StringVar(&c.json, "json", "", "`file` to write the result to")
	flags.BoolVar(&c.options.CPU, "cpu", false, "accept that no GPU is used, for trying out")
	return cmd
}

// A benchCommand is one bench command under way.
type benchCommand struct {
	bundles []string
	open    gate.OpenOptions
	options gate.BenchOptions
	least   float64
	json    string
	term    *terminal
}

func (c *benchCommand) run(ctx context.Context) error {
	switch {
	case len(c.bundles) == 0 || len(c.options.Models) == 0:
		return console.Usage(errors.New("--bundle and --model are required"), "go run ./ci bench --help")
	case c.options.Rounds < 1 || c.options.Repetitions < 1:
		return console.Usage(errors.New("--rounds and --repetitions must be above 0"), "leave them out for the defaults")
	case c.least > 0 && len(c.bundles) < 2:
		return console.Usage(errors.New("--at-least compares bundles, and there is one"), "give the baseline with another --bundle in front, or leave --at-least out")
	}
	if err := os.MkdirAll(filepath.Dir(c.json), 0o755); err != nil {
		return err
	}
	work, remove, err := bundler.Scratch(ctx, "", "bench")
	if err != nil {
		return err
	}
	defer remove()
	c.open.CPU = c.options.CPU
	var bundles []*gate.Bundle
	for _, file := range c.bundles {
		bundle, err := gate.Open(ctx, work, file, c.open)
		if err != nil {
			return err
		}
		bundles = append(bundles, bundle)
	}
	result, err := gate.Bench(ctx, bundles, c.options, func(t gate.Turn) {
		c.term.Notef("measure   round %d of %d: %s, %s", t.Round, t.Rounds, c.bundles[t.Bundle], t.Model)
	})
	if err != nil {
		return err
	}
	c.term.Printf("%s", benchTable(result))
	if c.json != "" {
		text, err := manifests.EncodeBenchmark(result)
		if err != nil {
			return err
		}
		if err := release.WriteFile(c.json, text); err != nil {
			return err
		}
	}
	return gate.CheckSpeed(result, c.least)
}

// benchTable is the result for people: a row for each test and bundle.
func benchTable(b manifests.Benchmark) string {
	var text strings.Builder
	device := b.GPU
	if device == "" {
		device = "no GPU, on " + b.CPU
	}
	fmt.Fprintf(&text, "%s; %d rounds: median, least to greatest\n\n", device, b.Rounds)
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tTEST\tBUNDLE\tRELEASE\tTOKENS/S\tRATIO")
	for _, test := range b.Tests {
		for i, speed := range test.Speeds {
			ratio := "1"
			if speed.Ratio != nil {
				ratio = fmt.Sprintf("%.3f (%.3f to %.3f)", speed.Ratio.Median, speed.Ratio.Min, speed.Ratio.Max)
			}
			t := speed.TokensPerSecond
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f (%.1f to %.1f)\t%s\n", test.Model, test.Test, b.Bundles[i].Name, b.Bundles[i].Release, t.Median, t.Min, t.Max, ratio)
		}
	}
	w.Flush()
	return strings.TrimSuffix(text.String(), "\n")
}
