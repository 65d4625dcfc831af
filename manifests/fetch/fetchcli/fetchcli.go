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
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
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

// Main runs llcuda-fetch with the given arguments. The first interrupt ends the command in order, but soon, the second at
// once.
func Main(args []string, verifier NewVerifier) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // gives the next signal its usual effect
	a := &app{term: newTerminal(os.Stdout, os.Stderr), newVerifier: verifier}
	root := a.root()
	root.SetArgs(args)
	err := a.execute(ctx, root.ExecuteContext)
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

// endSoon is how long an interrupted command may take to end in order: whoever pressed Ctrl-C waits for it. A system call
// that cannot be canceled, such as fsync(2) on a slow disk, may take longer; the store is whole at every moment, so the
// process ends without it.
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

// wantsEvents says whether --events is among arguments that cannot all be read.
func wantsEvents(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--"+eventsFlag)
}

// exitCode is the one place where an error becomes a number.
func exitCode(err error) int {
	var usage *usageError
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

// A usageError is a command that was given wrongly.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return e.hint }

const eventsFlag = "events"

const rootHelp = `Run llama.cpp on this machine's NVIDIA GPU, without a CUDA installation or a compiler.

Without a command it detects the GPU, picks the bundle built for it, downloads,
verifies and installs it, and prints how to run it.

For programs, --json prints the result as JSON. --events also reports what happens,
one JSON object per line on standard error; the last one is the outcome.

Exit codes: 0 done, 1 failed, 2 usage, 3 signature, checksum or release refused,
4 no GPU or driver, 5 no bundle fits this machine, 6 network,
7 not available offline, 8 disk, 130 interrupted.`

// root is the command line.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "llcuda-fetch",
		Short:         "Run llama.cpp on this machine's NVIDIA GPU",
		Long:          rootHelp,
		Version:       version(),
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return a.install(cmd.Context(), installFlags{}) },
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			// The programs of env are one release's, and the client need not be of the same.
			if !cmd.Flags().Changed("release") && cmd.Name() != selfUpdate {
				a.release = os.Getenv("LLCUDA_RELEASE")
			}
			if !cmd.Flags().Changed("allow-cpu") {
				a.allowCPU = fetch.IsTrue(os.Getenv("LLCUDA_ALLOW_CPU"))
			}
			if !cmd.Flags().Changed("key") && !a.skipSignature {
				a.key = os.Getenv("LLCUDA_PUBLIC_KEY")
			}
		},
	}
	root.SetOut(a.term.out)
	root.SetErr(a.term.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		a.badFlag = true
		return &usageError{err, cmd.CommandPath() + " --help"}
	})
	f := root.PersistentFlags()
	f.StringVar(&a.release, "release", "", "`tag` of the release (default: the installed one, else the current one; LLCUDA_RELEASE, except for self-update)")
	f.StringArrayVar(&a.mirrors, "mirror", nil, "`URL` or path of a folder with the release; {release} in it stands for the tag, or for \"current\" to find the release pointer; repeatable, tried in turn; \"default\" is GitHub (default: the mirrors of the installation; LLCUDA_MIRROR, separated by spaces)")
	f.StringVar(&a.home, "home", "", "`folder` of the store (LLCUDA_HOME)")
	f.BoolVar(&a.trustHome, "trust-home", false, "use a store in a folder that others may write to (LLCUDA_TRUST_HOME)")
	f.BoolVar(&a.offline, "offline", false, "use no network (LLCUDA_OFFLINE; HF_HUB_OFFLINE for models only)")
	f.BoolVar(&a.allowCPU, "allow-cpu", false, "install a bundle to run on the CPU if no GPU can be served (LLCUDA_ALLOW_CPU)")
	f.BoolVar(&a.allowWithdrawn, "allow-withdrawn", false, "accept the release that --release names even if it was withdrawn")
	f.BoolVar(&a.json, "json", false, "print the result as JSON")
	f.DurationVar(&a.patience, "patience", 0, "longest `duration` of the search for the release, such as 10s; downloads are not limited (default: no limit)")
	f.BoolFunc(eventsFlag, "for programs: print the result as JSON, and everything else as one JSON object per line on standard error", func(text string) error {
		on, err := strconv.ParseBool(text)
		a.term.events, a.json = on, a.json || on
		return err
	})
	f.BoolVar(&a.yes, "yes", false, "remove files; without it, prune and uninstall only list them")
	f.BoolVar(&a.term.quiet, "quiet", false, "print results and errors only")
	f.StringVar(&a.asHost, "as-host", "", "plan for the machine described in `file` (from detect --json); - is standard input")
	f.StringVar(&a.issuer, "issuer", "", "OIDC issuer `URL` of the signing certificate")
	f.StringVar(&a.identity, "identity", "", "expected signer: a workflow `URL`, or a full identity including @ref; the release pointer's signer is pointer.yml of the same repository")
	f.StringVar(&a.trustedRoot, "trusted-root", "", "`file` with the Sigstore trusted root to verify against")
	f.StringVar(&a.key, "key", "", "`file` with the public key of a private farm, in PEM (LLCUDA_PUBLIC_KEY)")
	f.BoolVar(&a.skipSignature, "insecure-skip-signature", false, "verify checksums only: whoever controls the mirror decides what runs on this machine")
	root.AddCommand(a.detectCommand(), a.planCommand(), a.installCommand(), a.modelsCommand(), a.inspectCommand(), a.pullCommand(), a.runCommand(), a.serveCommand(), a.chatCommand(), a.envCommand(),
		a.verifyCommand(), a.listCommand(), a.rollbackCommand(), a.pruneCommand(), a.uninstallCommand(), a.doctorCommand(), a.exportCommand(), a.selfUpdateCommand())
	usageArgs(root)
	return root
}

// usageArgs makes wrong positional arguments, and unknown commands, usage errors.
func usageArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err, cmd.CommandPath() + " --help"}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		usageArgs(sub)
	}
}
