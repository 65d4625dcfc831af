package fetchcli

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

func testRoot() *cobra.Command {
	a := &app{term: &terminal{Terminal: &console.Terminal{Out: io.Discard, Err: io.Discard}}}
	return a.root()
}

// parse reads a command line, and runs nothing.
func parse(words []string) error {
	root := testRoot()
	words, err := forAll(root, words)
	if err != nil {
		return err
	}
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return root.FlagErrorFunc()(cmd, err)
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// commands are all commands of the program, by their words.
func commands(cmd *cobra.Command) map[string]*cobra.Command {
	all := map[string]*cobra.Command{cmd.CommandPath(): cmd}
	for _, sub := range cmd.Commands() {
		for path, command := range commands(sub) {
			all[path] = command
		}
	}
	return all
}

// Every command has examples of itself, and they can be typed.
func TestExamples(t *testing.T) {
	line := regexp.MustCompile(`llcuda-fetch[^#|)>]*`)
	for path, cmd := range commands(testRoot()) {
		if !strings.Contains(cmd.Example, path) {
			t.Errorf("%s has no example of itself", path)
		}
		for _, example := range strings.Split(cmd.Example, "\n") {
			words := strings.Fields(strings.ReplaceAll(line.FindString(example), `"`, ""))
			if len(words) == 0 || !strings.HasPrefix(example, "  ") {
				t.Errorf("%s: %q is not an example", path, example)
				continue
			}
			if err := parse(words[1:]); err != nil {
				t.Errorf("%s: %q: %v", path, example, err)
			}
		}
	}
}

// The flags that each command shows: those that mean something to it. Every one has its name in the long form alone.
func TestFlags(t *testing.T) {
	const (
		output  = "events json quiet"
		home    = "home trust-home"
		source  = "mirror offline patience"
		release = "allow-withdrawn release"
		trust   = "identity insecure-skip-signature issuer public-key trusted-root"
	)
	all := map[string][]string{
		"llcuda-fetch":                       {output, home, source, release, trust, "allow-cpu as-host version"},
		"llcuda-fetch completion":            {},
		"llcuda-fetch completion bash":       {"no-descriptions"},
		"llcuda-fetch completion fish":       {"no-descriptions"},
		"llcuda-fetch completion powershell": {"no-descriptions"},
		"llcuda-fetch completion zsh":        {"no-descriptions"},
		"llcuda-fetch help":                  {},
		"llcuda-fetch detect":                {output, "as-host home"},
		"llcuda-fetch plan":                  {output, home, source, release, trust, "allow-cpu as-host sm"},
		"llcuda-fetch install":               {output, home, source, release, trust, "allow-cpu as-host allow-older force from model sm update"},
		"llcuda-fetch models":                {output, home, source, release, trust},
		"llcuda-fetch inspect":               {output, home, source, release, trust, "as-host ctx memory"},
		"llcuda-fetch pull":                  {output, home, source, release, trust, "as-host"},
		"llcuda-fetch run":                   {"events quiet", home, source, release, trust, "allow-cpu as-host"},
		"llcuda-fetch chat":                  {"events quiet", home, source, release, trust, "allow-cpu as-host"},
		"llcuda-fetch serve":                 {output, home, source, release, trust, "allow-cpu as-host host lifeline log port timeout"},
		"llcuda-fetch env":                   {output, home, "as-host shell"},
		"llcuda-fetch verify":                {output, home, trust, "as-host"},
		"llcuda-fetch list":                  {output, home, "as-host"},
		"llcuda-fetch rollback":              {output, home, trust},
		"llcuda-fetch prune":                 {output, home, "yes"},
		"llcuda-fetch uninstall":             {output, home, source, trust, "client models yes"},
		"llcuda-fetch doctor":                {output, home, source, trust, "as-host"},
		"llcuda-fetch export":                {output, home, source, release, trust, "model sm to"},
		"llcuda-fetch self-update":           {output, home, source, release, trust, "from"},
	}
	for path, cmd := range commands(testRoot()) {
		cmd.InitDefaultHelpFlag()
		cmd.InitDefaultVersionFlag()
		shown := regexp.MustCompile(`(?m)^ +(?:-\w, |    )--([a-z-]+)`).FindAllStringSubmatch(cmd.UsageString(), -1)
		var got []string
		for _, match := range shown {
			got = append(got, match[1])
		}
		flags := slices.Sorted(slices.Values(append(strings.Fields(strings.Join(all[path], " ")), "help")))
		slices.Sort(got)
		if diff := cmp.Diff(flags, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// A flag of other commands is refused with a hint to them; in front of a command all may stand.
// --key and --yes work as ever.
func TestFlagsOfOtherCommands(t *testing.T) {
	for _, test := range []struct{ line, message, hint string }{
		{"list --mirror x", "llcuda-fetch list does not use --mirror", "works with llcuda-fetch, chat, doctor, export, inspect, "},
		{"--home x rollback --allow-cpu", "llcuda-fetch rollback does not use --allow-cpu", "llcuda-fetch, chat, install, plan, run, serve"},
		{"--patience x list", "invalid argument \"x\"", "llcuda-fetch --help"},
		{"--sm 75 list", "llcuda-fetch list does not use --sm", "works with export, install, plan"},
		{"prune --public-key=x", "llcuda-fetch prune does not use --public-key", " verify"},
		{"completion bash --home x", "llcuda-fetch completion bash does not use --home", " list,"},
		{"--force", "llcuda-fetch does not use --force", "works with install"},
		{"list --nothing", "unknown flag: --nothing", "llcuda-fetch list --help"},
		{"plan --release", "flag needs an argument: --release", "llcuda-fetch plan --help"},
		{"plan --patience x", "invalid argument \"x\"", "llcuda-fetch plan --help"},
		{"list x", "unknown command \"x\"", "llcuda-fetch list --help"},
		{"--key k install --yes", "", ""},
		{"verify --key k", "", ""},
		{"--yes list", "", ""},
		{"run --json llama-cli", "", ""},
		{"rollback --as-host x", "", ""},
		{"--trusted-root x --home y --offline --patience=1s --mirror list list --quiet", "", ""},
		{"--allow-cpu prune --yes", "", ""},
		{"--mirror x completion bash", "", ""},
		{"--mirror x run llama-cli --mirror y", "", ""},
		{"serve m --yes", "", ""},
	} {
		err := parse(strings.Fields(test.line))
		if test.message == "" {
			if err != nil {
				t.Errorf("%s: %v", test.line, err)
			}
			continue
		}
		var usage *console.UsageError
		if !errors.As(err, &usage) || !strings.Contains(usage.Error(), test.message) || !strings.Contains(usage.Way, test.hint) {
			t.Errorf("%s: %#v", test.line, err)
		}
	}
}
