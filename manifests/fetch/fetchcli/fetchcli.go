// Package fetchcli is the llcuda-fetch command: flags, messages and exit codes around package fetch.
//
// main calls Main with the arguments and a constructor of the verifier, and exits with its result. Results go to standard
// output, everything else to standard error, for programs as events; nothing is ever asked. Among the client's packages
// only this one prints, and only its one switch chooses exit codes.
package fetchcli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// Trust is whose signature the user wants to count. What is empty is left to the farm's own.
type Trust struct {
	// Issuer and Identity are a keyless signer's. An Identity without "@" is a workflow, which may run for any tag. The
	// release pointer is then that of the same repository.
	Issuer, Identity string
	// TrustedRoot is a Sigstore trusted root, and PublicKey a key in PEM, which stands alone. Both are file contents.
	TrustedRoot, PublicKey []byte
}

// A Verifier says whose signatures count, on releases and on the release pointer.
type Verifier interface {
	fetch.Verifier
	fetch.PointerVerifier
}

// NewVerifier makes a verifier. It is called only when something has to be verified: making one takes milliseconds.
type NewVerifier func(Trust) (Verifier, error)

// The exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUntrusted   = 3
	exitNoGPU       = 4
	exitNoBundle    = 5
	exitNetwork     = 6
	exitNotOffline  = 7
	exitDisk        = 8
	exitInterrupted = 130
)

// Main runs llcuda-fetch with the given arguments. The first interrupt ends the command in order, but soon; the second
// ends it at once.
func Main(args []string, verifier NewVerifier) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // gives the next signal its usual effect
	a := &app{term: newTerminal(os.Stdout, os.Stderr), newVerifier: verifier}
	root := a.root()
	own, err := forAll(root, args)
	if err == nil {
		root.SetArgs(own)
		err = a.execute(ctx, root.ExecuteContext)
	}
	if a.badFlag && wantsEvents(args) {
		a.term.events = true // the flag that is wrong may stand before it
	}
	code := exitCode(err)
	if ctx.Err() != nil && err != nil {
		code = exitInterrupted
	}
	a.term.report(err, code)
	return code
}

// endSoon is how long an interrupted command may take to end in order, while the user who pressed Ctrl-C waits. A
// system call that cannot be canceled, such as fsync(2) on a slow disk, may take longer; the store is whole at every
// moment, so the process ends without it.
const endSoon = 800 * time.Millisecond

// execute runs a command until it ends, or until endSoon after its context did, unless it has something to bring to an end
// that does not end with this process.
func (a *app) execute(ctx context.Context, command func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- command(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	var late <-chan time.Time
	if !a.endsInOrder.Load() {
		late = time.After(endSoon)
	}
	select {
	case err := <-ended:
		return err
	case <-late:
		return context.Cause(ctx)
	}
}

// wantsEvents reports whether --events is among arguments that cannot all be read.
func wantsEvents(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--"+eventsFlag)
}

// exitCode is the one place where an error becomes a number.
func exitCode(err error) int {
	var usage *console.UsageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	}
	switch fetch.Classify(err) {
	case fetch.Usage:
		return exitUsage
	case fetch.Untrusted:
		return exitUntrusted
	case fetch.NoGPU:
		return exitNoGPU
	case fetch.NoBundle:
		return exitNoBundle
	case fetch.Network:
		return exitNetwork
	case fetch.NotOffline:
		return exitNotOffline
	case fetch.Disk:
		return exitDisk
	case fetch.Interrupted:
		return exitInterrupted
	}
	return exitFailed
}

// className is what --events calls the failures with an exit code.
func className(code int) string {
	switch code {
	case exitUsage:
		return "usage"
	case exitUntrusted:
		return "untrusted"
	case exitNoGPU:
		return "no-gpu"
	case exitNoBundle:
		return "no-bundle"
	case exitNetwork:
		return "network"
	case exitNotOffline:
		return "offline"
	case exitDisk:
		return "disk"
	case exitInterrupted:
		return "interrupted"
	}
	return "failed"
}

const rootHelp = `Run llama.cpp on this machine's NVIDIA GPU, without a CUDA installation or a compiler.

Without a command it detects the GPU, picks the bundle built for it, downloads,
verifies and installs it, and prints how to run it.

Flags go after the command. One in front of it is ignored if the command does not use it.

For programs, --json prints the result as JSON. --events also reports what happens,
one JSON object per line on standard error; the last one is the outcome.

Exit codes: 0 done, 1 failed, 2 usage, 3 signature, checksum or release refused,
4 no GPU or driver, 5 no bundle fits this machine, 6 network,
7 not available offline, 8 disk, 130 interrupted.`

// root is the command line.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "llcuda-fetch",
		Short: "Run llama.cpp on this machine's NVIDIA GPU",
		Long:  rootHelp,
		Example: `  llcuda-fetch                                # install what this machine's GPU needs
  llcuda-fetch serve gemma-3-1b-it-Q4_K_M     # run a model
  llcuda-fetch install --help                 # what a command does, and its flags`,
		Version:          version(),
		Args:             cobra.NoArgs,
		SilenceErrors:    true,
		SilenceUsage:     true,
		RunE:             func(cmd *cobra.Command, _ []string) error { return a.install(cmd.Context(), installFlags{}) },
		PersistentPreRun: func(cmd *cobra.Command, _ []string) { a.readVariables(cmd) },
	}
	root.SetOut(a.term.Out)
	root.SetErr(a.term.Err)
	root.PersistentFlags().BoolVar(&a.yes, yesFlag, false, "")
	_ = root.PersistentFlags().MarkHidden(yesFlag) // it is there
	install := []func(*cobra.Command){a.outputFlags, a.homeFlags, a.hostFlags, a.cpuFlags, a.releaseFlags, a.sourceFlags, a.trustFlags}
	with(root, install...)
	root.AddCommand(
		hide(with(a.detectCommand(), a.outputFlags, a.homeFlags, a.hostFlags), "trust-home"),
		with(a.planCommand(), install...),
		with(a.installCommand(), install...),
		with(a.modelsCommand(), a.outputFlags, a.homeFlags, a.releaseFlags, a.sourceFlags, a.trustFlags),
		with(a.inspectCommand(), a.outputFlags, a.homeFlags, a.hostFlags, a.releaseFlags, a.sourceFlags, a.trustFlags),
		with(a.pullCommand(), a.outputFlags, a.homeFlags, a.hostFlags, a.releaseFlags, a.sourceFlags, a.trustFlags),
		hide(with(a.runCommand(), install...), "json"),
		with(a.serveCommand(), install...),
		hide(with(a.chatCommand(), install...), "json"),
		with(a.envCommand(), a.outputFlags, a.homeFlags, a.hostFlags),
		with(a.verifyCommand(), a.outputFlags, a.homeFlags, a.hostFlags, a.trustFlags),
		with(a.listCommand(), a.outputFlags, a.homeFlags, a.hostFlags),
		hide(with(a.rollbackCommand(), a.outputFlags, a.homeFlags, a.hostFlags, a.trustFlags), "as-host"),
		with(a.pruneCommand(), a.outputFlags, a.homeFlags, a.removalFlags),
		with(a.uninstallCommand(), a.outputFlags, a.homeFlags, a.sourceFlags, a.trustFlags, a.removalFlags),
		with(a.doctorCommand(), a.outputFlags, a.homeFlags, a.hostFlags, a.sourceFlags, a.trustFlags),
		with(a.exportCommand(), a.outputFlags, a.homeFlags, a.releaseFlags, a.sourceFlags, a.trustFlags),
		with(a.selfUpdateCommand(), a.outputFlags, a.homeFlags, a.releaseFlags, a.sourceFlags, a.trustFlags),
	)
	console.Strict(root, "")
	refuse := root.FlagErrorFunc()
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.badFlag = true
		return refuse(cmd, err)
	})
	generated(root)
	return root
}

// generated adds the commands that cobra makes, which have no examples of their own.
func generated(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for words, example := range map[string]string{
		"help":                  "  llcuda-fetch help install",
		"completion":            "  source <(llcuda-fetch completion bash)",
		"completion bash":       "  source <(llcuda-fetch completion bash)",
		"completion zsh":        "  source <(llcuda-fetch completion zsh)",
		"completion fish":       "  llcuda-fetch completion fish | source",
		"completion powershell": "  llcuda-fetch completion powershell | Out-String | Invoke-Expression",
	} {
		if cmd, _, err := root.Find(strings.Fields(words)); err == nil {
			cmd.Example = example
		}
	}
}
