package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// A Program is a client as it lies on this machine.
type Program struct {
	// Path is its file, with no link in it, and Release the release that it came with.
	Path, Release string
}

// A SelfUpdated is what SelfUpdate did.
type SelfUpdated struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Path is the program's file, and Files are the names of all that came with it into the same
	// folder.
	Path  string   `json:"path"`
	Files []string `json:"files"`
	// Already reports whether the program was of that release before, and nothing was done.
	Already bool `json:"already"`
}

// A ProgramError is a client that was not replaced. The old one is as it was.
type ProgramError struct {
	Path string
	Err  error
	hint string
}

func (e *ProgramError) Error() string { return fmt.Sprintf("replacing %s: %v", e.Path, e.Err) }
func (e *ProgramError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *ProgramError) Hint() string { return e.hint }

// An OlderClientError is a release whose client is not newer than the one that runs.
type OlderClientError struct{ Running, Offered string }

func (e *OlderClientError) Error() string {
	return fmt.Sprintf("the mirror offers llcuda-fetch %s, which is not newer than this one, %s", e.Offered, e.Running)
}

// Hint says what it may mean.
func (e *OlderClientError) Hint() string {
	return "the mirror may be holding you at an old release; self-update --release " + e.Offered + " installs it anyway"
}

// Newer reports whether a release has a client for this machine that is newer than that of another
// release.
func (r *Release) Newer(than string) bool {
	order, ok := manifests.CompareTags(r.Release.Release, than)
	_, has := r.Asset(manifests.ClientName(runtime.GOOS, runtime.GOARCH))
	return ok && order > 0 && has
}

// SelfUpdate replaces a program by the client of a release, or, where its tag is empty, of the
// current one. It trusts that client for the same reasons as an installation. The store is read,
// for its mirrors and release pointers, and not written: the user who replaces a program of the
// system is often not the store's owner.
func (c *Client) SelfUpdate(ctx context.Context, p Program, tag string) (SelfUpdated, error) {
	r, a, err := c.resolveClient(ctx, tag)
	if err != nil {
		return SelfUpdated{}, err
	}
	to := r.Release.Release
	done := SelfUpdated{From: p.Release, To: to, Path: p.Path, Files: []string{}}
	dir := filepath.Dir(p.Path)
	unlock, err := c.lockFolder(ctx, dir)
	if err != nil {
		return done, &ProgramError{p.Path, err, ""}
	}
	defer unlock()
	if err := clearUpdate(dir); err != nil {
		return done, placeError(p.Path, err)
	}
	if to == p.Release {
		done.Already = true
		return done, nil
	}
	if order, ok := manifests.CompareTags(to, p.Release); tag == "" && !(ok && order > 0) {
		return done, &TrustError{&OlderClientError{p.Release, to}, ""}
	}
	if a.Name == "" {
		return done, &ProgramError{p.Path, fmt.Errorf("release %s has no %s", to, manifests.ClientName(runtime.GOOS, runtime.GOARCH)), "--release names another one"}
	}
	if err := checkPackage(ctx, p.Path); err != nil {
		return done, err
	}
	stage := filepath.Join(dir, updateDir)
	if err := os.Mkdir(stage, 0o700); err != nil {
		return done, placeError(p.Path, err)
	}
	done.Files, err = c.replaceProgram(ctx, p, r, a, stage)
	if Classify(err) == Disk {
		err = &ProgramError{p.Path, err, "make room on the file system of " + dir + " for " + programName + " once more; nothing was changed"}
	}
	return done, errors.Join(err, clearUpdate(dir))
}

// resolveClient is a release and its client for this machine. Where the manifest is too new for
// this program, which is why it needs an update, it relies on SHA256SUMS, which the same signature
// covers.
func (c *Client) resolveClient(ctx context.Context, tag string) (*Release, manifests.Artifact, error) {
	name := manifests.ClientName(runtime.GOOS, runtime.GOARCH)
	ctx, cancel := c.withPatience(ctx)
	defer cancel()
	r, err := c.resolve(ctx, tag, func(*Pointer) error { return nil })
	var newer *newerManifestError
	if !errors.As(err, &newer) {
		if err != nil {
			return nil, manifests.Artifact{}, err
		}
		client, _ := r.Asset(name)
		return r, client, nil
	}
	if newer.tag == "" {
		return nil, manifests.Artifact{}, err
	}
	r = &Release{Release: manifests.Release{Release: newer.tag}}
	at := slices.IndexFunc(newer.sums, func(s manifests.Sum) bool { return s.Name == name })
	if at < 0 {
		return r, manifests.Artifact{}, nil
	}
	return r, manifests.Artifact{Name: name, Kind: manifests.KindClient, URL: name, Size: -1, SHA256: newer.sums[at].SHA256}, nil
}

// A newerManifestError is a release that was signed well, and whose manifest this program is too
// old for.
type newerManifestError struct {
	error
	sums manifests.Sums
	tag  string // empty where nothing but the manifest tells it
}

func (e *newerManifestError) Unwrap() error { return e.error }

// replaceProgram downloads, unpacks, tries and puts in place. It returns the names of the files
// that came.
func (c *Client) replaceProgram(ctx context.Context, p Program, r *Release, a manifests.Artifact, stage string) ([]string, error) {
	urls, err := c.urls(r, a)
	if err != nil {
		return nil, err
	}
	if len(urls) == 0 {
		return nil, &OfflineError{a.Name}
	}
	archive, made := filepath.Join(stage, "archive"), filepath.Join(stage, newDir)
	blob := transfer.Blob{Name: a.Name, Size: a.Size, SHA256: a.SHA256, URLs: urls, Transient: true}
	if err := c.transfer().Fetch(ctx, blob, archive, nil, c.Progress); err != nil {
		return nil, c.blame(err)
	}
	if err := os.Mkdir(made, 0o700); err != nil {
		return nil, placeError(p.Path, err)
	}
	names, err := unpackClient(a.Name, archive, made)
	if err != nil {
		return nil, err
	}
	c.step("trying llcuda-fetch of release %s", r.Release.Release)
	if err := tryClient(ctx, filepath.Join(made, programName), r.Release.Release); err != nil {
		return nil, &ProgramError{p.Path, err, tryHint(err)}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := exchange(p.Path, stage, names); err != nil {
		return nil, placeError(p.Path, err)
	}
	return names, nil
}

// tryLimit is the time that a client has to say its version: it takes milliseconds.
const tryLimit = 30 * time.Second

// tryClient starts a client, which must say that it is of the release.
func tryClient(ctx context.Context, program, release string) error {
	limit, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	var out []byte
	var err error
	// Another thread that forks while the file is written holds it open for a moment:
	// https://go.dev/issue/22315
	for range 5 {
		cmd := exec.CommandContext(limit, program, "--version")
		cmd.WaitDelay = time.Second
		if out, err = cmd.CombinedOutput(); !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	said := strings.TrimSpace(string(out[:min(len(out), 500)]))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errors.Join(fmt.Errorf("starting the new one: %w", err), textError(said))
	}
	// "llcuda-fetch version v1.1.0-runtime, commit …"
	if words := strings.Fields(said); len(words) < 3 || strings.TrimSuffix(words[2], ",") != release {
		return fmt.Errorf("the new one is to be of release %s, and says %q", release, said)
	}
	return nil
}

func textError(said string) error {
	if said == "" {
		return nil
	}
	return errors.New(said)
}

func tryHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "its file system is mounted noexec, or something else forbids new programs there: install.sh installs into another folder (--prefix, LLCUDA_BIN)"
	}
	return "nothing was changed; tell the farm's maintainers, and take another release by --release"
}

// Package managers by the folders that are theirs alone, and by the program that reports whether a
// file is of a package.
var (
	managedFolders = []struct{ part, manager string }{
		{"/nix/store/", "Nix"}, {"/gnu/store/", "Guix"}, {"/snap/", "snap"}, {"/Cellar/", "Homebrew"},
		{"/site-packages/", "pip or uv"}, {"/dist-packages/", "pip or uv"},
	}
	managedBy = []struct {
		manager string
		query   []string
	}{
		{"dpkg", []string{"dpkg-query", "--search"}}, {"rpm", []string{"rpm", "--query", "--file"}},
		{"pacman", []string{"pacman", "--query", "--owns"}}, {"apk", []string{"apk", "info", "--who-owns"}},
	}
)

// checkPackage refuses a program that a package manager put where it is: that would undo the
// change, or break on it.
func checkPackage(ctx context.Context, program string) error {
	managed := func(manager string) error {
		return &ProgramError{program, fmt.Errorf("it is of a package of %s", manager), "update it by " + manager + ", or install one of your own by install.sh"}
	}
	for _, folder := range managedFolders {
		if strings.Contains(program, folder.part) {
			return managed(folder.manager)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	for _, by := range managedBy {
		if _, err := exec.LookPath(by.query[0]); err != nil {
			continue
		}
		if exec.CommandContext(ctx, by.query[0], append(by.query[1:], program)...).Run() == nil {
			return managed(by.manager)
		}
	}
	return nil
}
