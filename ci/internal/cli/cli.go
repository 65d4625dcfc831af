// Package cli is the ci command: it reads arguments, checks them before anything
// costs time, calls the farm and the bundler, and tells the user what happened.
//
// main calls Main with the arguments and exits with its result. Results go to
// standard output, everything else to standard error. Among the packages of ci
// only this one prints, and only Main's one switch chooses exit codes.
package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// The exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3 // by the audit, by verify, or by what a GPU computed
	exitEngine      = 4 // no engine, or none left
	exitRemote      = 5 // a remote side says no: authentication, conflict, immutable release
	exitInterrupted = 130
)

// Main runs ci with the given arguments on the given engines.
//
// The first interrupt ends the command in order: running steps are stopped and
// what was finished is kept. The second one ends it at once. The end of the
// `go run` that started it counts as an interrupt.
func Main(args []string, backend Backend) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // gives the next signal its usual effect
	term := newTerminal(os.Stdout, os.Stderr)
	if err := endWithGoRun(stop); err != nil {
		term.Warnf("%v", err)
	}
	return run(ctx, args, term, backend)
}

// run is Main without the process around it.
func run(ctx context.Context, args []string, term *terminal, backend Backend) int {
	root := newRoot(term, backend)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		term.Report(err.Error(), hintFor(err))
	}
	return exitCode(ctx, err)
}

// exitCode is the one place where an error becomes a number.
func exitCode(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case isAs[*console.UsageError](err), isAs[*failure.InputError](err), isAs[*farm.SourceError](err), isAs[*matrix.SelectionError](err):
		return exitUsage
	case isAs[*engine.UnavailableError](err), isAs[*builtin.PreflightError](err), isAs[*builtin.StartError](err), errors.Is(err, farm.ErrEngineLost):
		return exitEngine
	case isAs[*failure.Refusal](err), isAs[*farm.TreeError](err), isAs[*farm.MovedError](err), isAs[*farm.PartError](err):
		return exitRefused
	case isAs[*publisher.RefusedError](err):
		return exitRemote
	default:
		return exitFailed
	}
}

// isInterrupt reports whether an error only means that the user stopped the command.
func isInterrupt(err error) bool { return errors.Is(err, context.Canceled) }

func isAs[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// onlyAudits reports whether all errors joined in err are audit findings.
func onlyAudits(errs []error) bool {
	for _, err := range errs {
		if !isAs[*bundler.AuditError](err) {
			return false
		}
	}
	return len(errs) > 0
}

func newRoot(term *terminal, backend Backend) *cobra.Command {
	root := &cobra.Command{
		Use:   "ci",
		Short: "Build, verify, sign and publish the releases of llcuda",
		Long:  rootHelp,
		Example: `  go run ./ci plan --sm all                               # what would be built
  go run ./ci build --sm 75 --release v1.1.0-runtime      # builds the bundle of one GPU generation
  go run ./ci release --help                              # what a command does, and its flags`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return console.Usage(errors.New("no command"), "go run ./ci --help lists them")
		},
	}
	root.SetOut(term.Out)
	root.SetErr(term.Err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		newPlanCommand(term, backend),
		newBuildCommand(term, backend),
		newClientCommand(term, backend),
		newWheelCommand(term, backend),
		newManifestCommand(term),
		newSignCommand(term),
		newVerifyCommand(term, backend),
		newTryCommand(term),
		newOpsCommand(term, backend),
		newCheckOpsCommand(term),
		newBenchCommand(term),
		newReproduceCommand(term, backend),
		newCompareCommand(term),
		newPreviousCommand(term),
		newPublishCommand(term),
		newPointerCommand(term),
		newSiteCommand(term),
		newReleaseCommand(term, backend),
		newBumpCommand(term, backend),
		newEngineCommand(term, backend),
	)
	console.Strict(root, "go run ./")
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Example = "  go run ./ci help build"
	}
	return root
}

const rootHelp = `Build, verify, sign and publish the releases of llcuda.

Exit codes: 0 done, 1 failed, 2 usage, 3 audit or verification refused,
4 engine unavailable, 5 remote service refused, 130 interrupted.`
