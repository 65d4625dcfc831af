package fetch

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
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
	// Path is the program's file, and Files are the names of all that came with it into the same folder.
	Path  string   `json:"path"`
	Files []string `json:"files"`
	// Already says that the program is of that release, and nothing was done.
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

// Newer says whether a release has a client for this machine that is newer than that of another release.
func (r *Release) Newer(than string) bool {
	order, ok := manifests.CompareTags(r.Release.Release, than)
	_, has := r.Asset(manifests.ClientName(runtime.GOOS, runtime.GOARCH))
	return ok && order > 0 && has
}

// The program in a client's archive, and the folder beside it in which its successor is made:
//
//	archive   as it is downloaded
//	new/      the files to come, whole, tried and on disk
//	old/      those that are replaced before the program is; an empty one stands for none
const (
	programName = "llcuda-fetch"
	updateDir   = ".llcuda-fetch-update"
	newDir      = "new"
	oldDir      = "old"
)

// SelfUpdate puts the client of a release, or, where its tag is empty, of the current one, in the place of a program. It
// believes it for the same reasons as an installation. The store is read, for its mirrors and release pointers, and not
// written: whoever replaces a program of the system is often another user than the store's.
func (c *Client) SelfUpdate(ctx context.Context, p Program, tag string) (SelfUpdated, error) {
	r, a, err := c.clientOf(ctx, tag)
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

// clientOf is a release and its client for this machine. Where the manifest is too new for this program, of all programs,
// it goes by SHA256SUMS, which the same signature covers.
func (c *Client) clientOf(ctx context.Context, tag string) (*Release, manifests.Artifact, error) {
	name := manifests.ClientName(runtime.GOOS, runtime.GOARCH)
	ctx, cancel := c.patiently(ctx)
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

// A newerManifestError is a release that was signed well, and whose manifest this program is too old for.
type newerManifestError struct {
	error
	sums manifests.Sums
	tag  string // empty where nothing but the manifest tells it
}

func (e *newerManifestError) Unwrap() error { return e.error }

// replaceProgram downloads, unpacks, tries and puts in place. It returns the names of the files that came.
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

// maxClient bounds what a client's archive may hold, in bytes and in entries: it has 20 MB and 6.
const (
	maxClient        = 128 << 20
	maxClientEntries = 100
)

// unpackClient unpacks the programs in a client's archive, whose digest was verified, and returns their names: the files
// at its top that may be executed. Licence, README and completions are for packagers, and stay in the archive, as
// install.sh has it.
func unpackClient(name, archive, dir string) ([]string, error) {
	bad := func(entry, format string, args ...any) error {
		return &store.ArchiveError{Name: name, Entry: entry, Problem: fmt.Sprintf(format, args...)}
	}
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return nil, bad("", "%v", err)
	}
	limited := &io.LimitedReader{R: unpacked, N: maxClient + 1}
	entries := tar.NewReader(limited)
	reason := func(err error) error {
		if limited.N <= 0 {
			return bad("", "it unpacks to more than %d bytes", maxClient)
		}
		return bad("", "%v", err)
	}
	var names []string
	seen := map[string]bool{}
	for {
		header, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, reason(err)
		}
		entry := strings.TrimSuffix(header.Name, "/")
		mode := header.Mode & 0o7777
		isFile := header.Typeflag == tar.TypeReg
		switch {
		case entry == "" || entry != path.Clean(entry) || !filepath.IsLocal(entry) || strings.ContainsAny(entry, "\\\x00"):
			return nil, bad(header.Name, "it does not lie in the archive")
		case seen[entry]:
			return nil, bad(header.Name, "it is there twice")
		case len(seen) >= maxClientEntries:
			return nil, bad("", "it has more than %d entries", maxClientEntries)
		case !isFile && header.Typeflag != tar.TypeDir:
			return nil, bad(header.Name, "it is neither a file nor a folder (type %q)", header.Typeflag)
		case isFile && mode != 0o644 && mode != 0o755:
			return nil, bad(header.Name, "its mode is %04o; only 0644 and 0755 are expected", mode)
		}
		seen[entry] = true
		if !isFile || mode != 0o755 || strings.Contains(entry, "/") {
			continue
		}
		if header.Size == 0 {
			return nil, bad(header.Name, "it is a program of no bytes")
		}
		if err := writeProgram(filepath.Join(dir, entry), entries); err != nil {
			if limited.N <= 0 || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, reason(err)
			}
			return nil, fmt.Errorf("unpacking %s: %w", name, err)
		}
		names = append(names, entry)
	}
	if _, err := io.Copy(io.Discard, limited); err != nil || limited.N <= 0 { // the tar's own end is not the archive's
		return nil, reason(err)
	}
	if !slices.Contains(names, programName) {
		return nil, bad("", "it holds no program %s", programName)
	}
	return names, os.Remove(archive)
}

// writeProgram writes a file that is on disk when it returns.
func writeProgram(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// tryLimit is the time that a client has to say its version: it takes milliseconds.
const tryLimit = 30 * time.Second

// tryClient starts a client, which must say that it is of the release.
func tryClient(ctx context.Context, program, release string) error {
	limit, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	var out []byte
	var err error
	// Another thread that forks while the file is written holds it open for a moment: https://go.dev/issue/22315
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

// exchange puts the new files in the place of the old ones: of all of them, or of none.
func exchange(program, stage string, names []string) error {
	dir := filepath.Dir(program)
	fresh := func(name string) string { return filepath.Join(stage, newDir, name) }
	others := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == programName })
	if err := likeOld(fresh(programName), program); err != nil {
		return err
	}
	for _, name := range others {
		if err := likeOld(fresh(name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := backUp(dir, stage, others); err != nil {
		return err
	}
	for _, name := range others {
		if err := os.Rename(fresh(name), filepath.Join(dir, name)); err != nil {
			return err // clearUpdate takes back those before it
		}
	}
	// The point of no return: before it, clearUpdate brings the old files back, and after it, the new ones are there.
	if err := os.Rename(fresh(programName), program); err != nil {
		return err
	}
	return store.SyncFolder(dir)
}

// likeOld gives a new file the mode of the one that it replaces, and its owner, as far as this user may: root does not
// take a program in somebody's home folder away from him.
func likeOld(fresh, old string) error {
	info, err := os.Stat(old)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Chmod(fresh, 0o755)
	}
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(fresh, int(owner.Uid), int(owner.Gid)); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return os.Chmod(fresh, info.Mode().Perm())
}

// backUp copies files to where clearUpdate finds them. They appear there all at once.
func backUp(dir, stage string, names []string) error {
	beside := filepath.Join(stage, oldDir+"-")
	if err := os.Mkdir(beside, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		copied := filepath.Join(beside, name)
		f, err := os.Open(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := writeProgram(copied, bytes.NewReader(nil)); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		if err := errors.Join(writeProgram(copied, f), f.Close(), likeOld(copied, filepath.Join(dir, name))); err != nil {
			return err
		}
	}
	return errors.Join(os.Rename(beside, filepath.Join(stage, oldDir)), store.SyncFolder(stage))
}

// clearUpdate removes what an update left, its own or that of a killed process. Where the program had not been replaced
// yet, the files that had been are put back.
func clearUpdate(dir string) error {
	stage := filepath.Join(dir, updateDir)
	info, err := os.Lstat(stage)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// What somebody else put there is not put back, but removed.
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && info.IsDir() && int(owner.Uid) == os.Geteuid() {
		if err := putBack(dir, stage); err != nil {
			return err
		}
	}
	return os.RemoveAll(stage)
}

func putBack(dir, stage string) error {
	if _, err := os.Stat(filepath.Join(stage, newDir, programName)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	old, err := os.ReadDir(filepath.Join(stage, oldDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range old {
		from, to := filepath.Join(stage, oldDir, entry.Name()), filepath.Join(dir, entry.Name())
		info, err := entry.Info()
		switch {
		case err != nil:
		case info.Size() == 0:
			if err = os.Remove(to); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		default:
			err = os.Rename(from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// placeError is the error of changing a program's folder, with the way out that fits.
func placeError(program string, err error) error {
	const another = "install.sh installs one into ~/.local/bin, or into another folder (--prefix, LLCUDA_BIN)"
	hint := ""
	switch {
	case errors.Is(err, unix.EROFS):
		hint = "its file system is read-only: in an image, build the image anew with the newer release; elsewhere, " + another
	case errors.Is(err, unix.EBUSY):
		hint = "something is mounted on it: replace it where it is mounted from, or " + another
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() == 0:
		hint = "not even root may change it: a chattr +i or a security policy forbids it; " + another
	case errors.Is(err, fs.ErrPermission):
		hint = "another user owns it: sudo " + program + " self-update; or " + another
	}
	return &ProgramError{program, err, hint}
}

// Package managers by the folders that are theirs alone, and by the program that says whether a file is of a package.
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

// checkPackage refuses a program that a package manager put where it is: that would undo the change, or break on it.
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
