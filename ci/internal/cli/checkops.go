package cli

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/gate"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// maxOpsJobs is how many processes compare operations at once, unless told otherwise: each has a context on the GPU.
const maxOpsJobs = 10

func newCheckOpsCommand(term *terminal) *cobra.Command {
	c := checkOpsCommand{term: term}
	cmd := &cobra.Command{
		Use:   "check-ops --bundle FILE --ops FILE",
		Short: "Compare every operation of a bundle's CUDA backend with the CPU",
		Long: `Compare every operation of a bundle's CUDA backend with the CPU, on this machine's GPU,
by llama.cpp's own test-backend-ops, which ops compiles. It exits with 3 if an operation
computes something else, reports nothing, or did not run on the GPU.

The CUDA runtime is the one that the manifest.json beside the bundle names, unless
--runtime gives another. It needs no engine, repository or network.`,
		Example: `  go run ./ci check-ops --bundle dist/llcuda-bins-sm90.tar.zst --ops test-backend-ops`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&c.bundle, "bundle", "", "`file` of the bundle's archive")
	flags.StringVar(&c.ops, "ops", "", "`file` of test-backend-ops")
	flags.StringVar(&c.open.Runtime, "runtime", "", "`file` of the CUDA runtime's archive (default: the one beside the bundle)")
	flags.BoolVar(&c.options.CPU, "cpu", false, "compare the CPU backend with its own reference, for machines without a GPU")
	flags.IntVar(&c.options.Jobs, "jobs", min(runtime.NumCPU(), maxOpsJobs), "processes at once")
	flags.DurationVar(&c.options.Limit, "limit", 20*time.Minute, "time that each process may take")
	return cmd
}

// A checkOpsCommand is one check-ops command under way.
type checkOpsCommand struct {
	bundle, ops string
	open        gate.OpenOptions
	options     gate.OpsOptions
	term        *terminal
}

func (c *checkOpsCommand) run(ctx context.Context) error {
	switch {
	case c.bundle == "" || c.ops == "":
		return console.Usage(errors.New("--bundle and --ops are required"), "go run ./ci check-ops --help; go run ./ci ops compiles test-backend-ops")
	case c.options.Jobs < 1 || c.options.Limit <= 0:
		return console.Usage(errors.New("--jobs and --limit must be above 0"), "leave them out for the defaults")
	}
	work, remove, err := bundler.Scratch(ctx, "", "check-ops")
	if err != nil {
		return err
	}
	defer remove()
	c.open.CPU = c.options.CPU
	bundle, err := gate.Open(ctx, work, c.bundle, c.open)
	if err != nil {
		return err
	}
	report, err := gate.CheckOps(ctx, bundle, c.ops, c.options, func(done, total int) {
		c.term.Notef("check     %s: %d of %d processes ended", bundle.Name, done, total)
	})
	if err != nil {
		return err
	}
	for _, failure := range report.Failures {
		c.term.Printf("%s", failure)
	}
	if len(report.Unsupported) > 0 {
		c.term.Printf("not supported, so that llama.cpp computes them on the CPU: %s", strings.Join(report.Unsupported, ", "))
	}
	if err := report.Err(); err != nil {
		return err
	}
	c.term.Printf("%s on %s: %d of %d cases of %d operations are equal to the CPU's", bundle.Name, report.Device, report.Passed, report.Total, report.Operations)
	return nil
}
