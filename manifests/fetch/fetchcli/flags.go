package fetchcli

import (
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// Flags that several commands have, in groups: a command has those that mean something to it. Only in front of a command
// may all of them stand.

// outputFlags choose how a command answers.
func (a *app) outputFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&a.json, "json", false, "print the result as JSON")
	f.BoolFunc(eventsFlag, "for programs: print the result as JSON, and everything else as one JSON object per line on standard error", func(text string) error {
		on, err := strconv.ParseBool(text)
		a.term.events, a.json = on, a.json || on
		return err
	})
	f.BoolVar(&a.term.quiet, "quiet", false, "print results and errors only")
}

// homeFlags choose the store.
func (a *app) homeFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.home, "home", "", "`folder` of the store (LLCUDA_HOME)")
	cmd.Flags().BoolVar(&a.trustHome, "trust-home", false, "use a store in a folder that others may write to (LLCUDA_TRUST_HOME)")
}

// hostFlags choose the machine.
func (a *app) hostFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.asHost, "as-host", "", "answer for the machine described in `file` (from detect --json); - is standard input")
}

// cpuFlags choose what is done for a machine without a GPU.
func (a *app) cpuFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.allowCPU, "allow-cpu", false, "install a bundle to run on the CPU if no GPU can be served (LLCUDA_ALLOW_CPU)")
}

// releaseFlags choose a release.
func (a *app) releaseFlags(cmd *cobra.Command) {
	usage := "`tag` of the release (default: the installed one, else the current one; LLCUDA_RELEASE)"
	if cmd.Name() == selfUpdate {
		usage = "`tag` of the release (default: the current one)"
	}
	cmd.Flags().StringVar(&a.release, "release", "", usage)
	cmd.Flags().BoolVar(&a.allowWithdrawn, "allow-withdrawn", false, "accept the release that --release names even if it was withdrawn")
}

// sourceFlags choose where releases come from.
func (a *app) sourceFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&a.mirrors, "mirror", nil, "`URL` or path of a folder with the release; {release} in it stands for the tag, or for \"current\" to find the release pointer; repeatable, tried in turn; \"default\" is GitHub (default: the mirrors of the installation; LLCUDA_MIRROR, separated by spaces)")
	f.BoolVar(&a.offline, "offline", false, "use no network (LLCUDA_OFFLINE; HF_HUB_OFFLINE for models only)")
	f.DurationVar(&a.patience, "patience", 0, "longest `duration` of the search for the release, such as 10s; downloads are not limited (default: no limit)")
}

// trustFlags choose whose signature is accepted.
func (a *app) trustFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.issuer, "issuer", "", "OIDC issuer `URL` of the signing certificate")
	f.StringVar(&a.identity, "identity", "", "expected signer: a workflow `URL`, or a full identity including @ref; the release pointer's signer is pointer.yml of the same repository")
	f.StringVar(&a.trustedRoot, "trusted-root", "", "`file` with the Sigstore trusted root to verify against")
	f.StringVar(&a.key, publicKey, "", "`file` with the public key of a private farm, in PEM (LLCUDA_PUBLIC_KEY)")
	console.Alias(cmd, publicKey, formerKey)
	f.BoolVar(&a.skipSignature, "insecure-skip-signature", false, "verify checksums only: whoever controls the mirror decides what runs on this machine")
}

// removalFlags make a command remove files. The other commands take --yes, too, because scripts give it to all: it
// changes nothing there, and their help does not show it.
func (a *app) removalFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.yes, yesFlag, false, "remove the files; without it, they are only listed")
}

const (
	eventsFlag = "events"
	yesFlag    = "yes"
	publicKey  = "public-key"
	formerKey  = "key"
)

// with gives a command groups of flags.
func with(cmd *cobra.Command, groups ...func(*cobra.Command)) *cobra.Command {
	for _, add := range groups {
		add(cmd)
	}
	return cmd
}

// hide keeps flags of a command out of its help: they are of little use there, and scripts may give them.
func hide(cmd *cobra.Command, names ...string) *cobra.Command {
	for _, name := range names {
		_ = cmd.Flags().MarkHidden(name) // it is there
	}
	return cmd
}

// readVariables sets flags that were not given from the environment.
func (a *app) readVariables(cmd *cobra.Command) {
	changed := cmd.Flags().Changed
	if !changed("release") && cmd.Name() != selfUpdate { // the programs of env are one release's, and the client need not be
		a.release = os.Getenv("LLCUDA_RELEASE")
	}
	if !changed("allow-cpu") {
		a.allowCPU = fetch.IsTrue(os.Getenv("LLCUDA_ALLOW_CPU"))
	}
	if !changed(publicKey) && !changed(formerKey) && !a.skipSignature {
		a.key = os.Getenv("LLCUDA_PUBLIC_KEY")
	}
}

// forAll takes flags that stand in front of a command and mean nothing to it out of the arguments: a script may give all
// commands the same. What is behind the command is meant for it.
func forAll(root *cobra.Command, args []string) ([]string, error) {
	cmd, _, err := root.Find(args)
	if err != nil || cmd == root {
		return args, nil // which cobra judges
	}
	var kept, ignored []string
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		name, _, hasValue := strings.Cut(args[0][len("--"):], "=")
		flag, length := root.Flags().Lookup(name), 1
		if flag == nil {
			break
		}
		if !hasValue && flag.NoOptDefVal == "" {
			length = 2
		}
		if cmd.Flag(name) == nil {
			ignored = append(ignored, args[:length]...)
		} else {
			kept = append(kept, args[:length]...)
		}
		args = args[length:]
	}
	if err := root.ParseFlags(ignored); err != nil { // they have to be right all the same
		return nil, root.FlagErrorFunc()(root, err)
	}
	return append(kept, args...), nil
}
