package fetchcli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
)

// app is what the commands share: the terminal and the global flags.
type app struct {
	term        *terminal
	newVerifier NewVerifier

	release, home, asHost              string
	mirrors                            []string
	offline, allowCPU, json, yes       bool
	trustHome, allowWithdrawn          bool
	issuer, identity, trustedRoot, key string
	skipSignature                      bool
	patience                           time.Duration

	newerNoted bool
	badFlag    bool // the command line has a flag that cannot be read
	// endsInOrder reports whether the command, once interrupted, takes the time that it needs to
	// end.
	endsInOrder atomic.Bool
}

// release and commit are what a packager stamps with the linker's -X; empty in any other build. They say which release
// the program came with, which Go's own record of a build cannot: the tag is made after the program.
var release, commit string

// snapshot ends the stamp of a program that is of no release, but of a working tree: see .goreleaser.yaml.
const snapshot = "-snapshot"

// version is what the program was built from.
func version() string {
	version, revision := release, commit
	if info, ok := debug.ReadBuildInfo(); ok {
		version = cmp.Or(version, info.Main.Version)
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = cmp.Or(revision, s.Value)
			}
		}
	}
	if revision == "" {
		return cmp.Or(version, "unknown")
	}
	return fmt.Sprintf("%s, commit %s", cmp.Or(version, "unknown"), revision)
}

// client is the Client that the flags and the environment ask for.
func (a *app) client(command string) (*fetch.Client, error) {
	c, err := fetch.New(cmp.Or(a.home, os.Getenv("LLCUDA_HOME")), os.Getenv)
	if err != nil {
		return nil, err
	}
	c.Command = "llcuda-fetch " + command
	c.Offline = c.Offline || a.offline
	c.Store.TrustAll = c.Store.TrustAll || a.trustHome
	if c.Mirrors = a.mirrors; len(c.Mirrors) == 0 {
		c.Mirrors = mirrorsOf(os.Getenv("LLCUDA_MIRROR"))
	}
	c.Patience = a.patience
	c.SkipSignature, c.AllowWithdrawn = a.skipSignature, a.allowWithdrawn
	if !strings.HasSuffix(release, snapshot) {
		c.Own = release
	}
	verifier := &lazyVerifier{app: a}
	c.Verifier, c.Pointers = verifier, verifier
	if a.asHost != "" {
		if c.Host, err = a.readHost(); err != nil {
			return nil, err
		}
	}
	if a.skipSignature {
		if a.key != "" || a.identity != "" || a.issuer != "" || a.trustedRoot != "" {
			return nil, console.Usage(errors.New("--insecure-skip-signature and --public-key, --identity, --issuer and --trusted-root exclude each other"), "give one or the others")
		}
		a.term.warnf("SIGNATURES ARE NOT VERIFIED: whoever controls the mirror decides what runs on this machine")
	}
	c.Waiting = func(h fetch.Holder) {
		text := "waiting for another llcuda-fetch"
		if h.PID != 0 {
			text = fmt.Sprintf("waiting for process %d (%s), which has been using the store since %s", h.PID, h.Command, h.Since.Local().Format("15:04:05"))
		}
		a.term.tell(waitingEvent{event("waiting"), h.PID, h.Command, h.Since}, text)
	}
	c.Resolved = func(r *fetch.Release) {
		a.term.tellVerified(r)
		a.noteNewer(r)
	}
	c.Detected, c.Decided = a.term.tellHost, a.term.tellDecision
	c.Step = func(what string) { a.term.notef("%s", what) }
	warned := map[string]bool{}
	c.Hub.Waiting = func(lock string) {
		a.term.notef("waiting for another process that is downloading the same file (lock %s)", shortPath(lock))
	}
	c.Hub.Warn = func(problem error) {
		if text := problem.Error(); !warned[text] {
			warned[text] = true
			a.term.warnf("%s", text)
		}
	}
	c.Warn = func(what string) { a.term.warnf("%s", what) }
	c.Progress = a.term.progress
	return c, nil
}

// mirrorsOf are the mirrors in LLCUDA_MIRROR, as install.sh reads it: separated by blanks, or one folder that may have blanks
// in its name.
func mirrorsOf(value string) []string {
	if info, err := os.Stat(value); err == nil && info.IsDir() {
		return []string{value}
	}
	return strings.Fields(value)
}

func (a *app) readHost() (*manifests.Host, error) {
	var r io.Reader = os.Stdin
	if a.asHost != "-" {
		f, err := os.Open(a.asHost)
		if err != nil {
			return nil, console.Usage(err, "llcuda-fetch detect --json prints such a file")
		}
		defer f.Close()
		r = f
	}
	host, err := manifests.DecodeHost(r)
	if err != nil {
		return nil, console.Usage(err, "llcuda-fetch detect --json prints such a file")
	}
	return &host, nil
}

// lazyVerifier makes the verifier when the first signature comes.
type lazyVerifier struct {
	app  *app
	made Verifier
}

func (v *lazyVerifier) verifier() (Verifier, error) {
	if v.made == nil {
		trust, err := v.app.trust()
		if err != nil {
			return nil, err
		}
		if v.made, err = v.app.newVerifier(trust); err != nil {
			return nil, console.Usage(err, "")
		}
	}
	return v.made, nil
}

func (v *lazyVerifier) Verify(sums, signed []byte) (fetch.Signer, error) {
	made, err := v.verifier()
	if err != nil {
		return fetch.Signer{}, err
	}
	return made.Verify(sums, signed)
}

func (v *lazyVerifier) VerifyPointer(signed []byte) ([]byte, fetch.Signer, error) {
	made, err := v.verifier()
	if err != nil {
		return nil, fetch.Signer{}, err
	}
	return made.VerifyPointer(signed)
}

// trust is whose signature counts, as far as the flags say.
func (a *app) trust() (Trust, error) {
	read := func(path, flag string) ([]byte, error) {
		if path == "" {
			return nil, nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, console.Usage(err, flag+" names a file on this machine")
		}
		return data, nil
	}
	key, err := read(a.key, "--public-key, like LLCUDA_PUBLIC_KEY,")
	if err != nil {
		return Trust{}, err
	}
	root, err := read(a.trustedRoot, "--trusted-root")
	if err != nil {
		return Trust{}, err
	}
	return Trust{PublicKey: key, TrustedRoot: root, Issuer: a.issuer, Identity: a.identity}, nil
}

// print prints a result as JSON.
func (a *app) print(result any) error {
	data, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	a.term.printf("%s", data)
	return nil
}

// shortPath is a path for people: below the home folder with a tilde.
func shortPath(path string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	if inside, ok := strings.CutPrefix(path, home+string(filepath.Separator)); ok {
		return "~/" + inside
	}
	return path
}

func nonNil(list []string) []string { return append([]string{}, list...) }

// A hinted error has a way out.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

func (e *hinted) Hint() string { return e.hint }

func notInstalled(err error) error {
	return &hinted{err, "run llcuda-fetch without a command to install it"}
}
