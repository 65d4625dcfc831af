// Package store is what llcuda-fetch keeps on a machine: bundles, CUDA runtimes, and which of them
// is installed.
//
// The fetch package calls it, with archives as they come from the network and with what the
// manifest says of them. The output is folders whose every file was verified, and the Install that
// `run` starts programs from:
//
//	Stage.Unpack ──▶ staging/… ──Stage.Adopt──▶ bundles/…, runtimes/… ──Locked.Activate──▶ installs/N ◀── current
//
//	llcuda-store                says that the folder is a store
//	lock                        held by the process that changes anything; lock.held stands for it where there is no flock(2)
//	downloads/SHA256.partial    what transfers resume from
//	staging/                    what is being made; the process that takes the lock removes what the store left there
//	bundles/NAME-TAR12/         an unpacked bundle, named by the beginning of its tar's sha256; left-out.json in it says
//	                            which CPU variants fail here, and have no link beside the programs
//	runtimes/NAME/              unpacked CUDA libraries, named by their own digest
//	links/DIGEST/               links to one set of CUDA libraries, named by what it holds
//	releases/TAG/               manifest.json, SHA256SUMS and its signature, as they were verified
//	pointers/SIGNER.json        the newest release pointer seen of each signer
//	installs/N/install.json     what was installed, how and why; installs/N/bundle leads to the bundle;
//	                            start says when and how programs are started at once, to package launch
//	logs/server-PID.log         what servers print that llcuda-fetch serve supervises
//	servers/PID-….json          which of them run, so that none outlives its supervisor; see package serve
//	current/KIND                a link to one of installs/, for each kind of machine that uses the store;
//	                            current/any is for machines that have none of their own yet
//
// Every folder under bundles, runtimes, links and installs came there whole, by one rename, after
// it was verified and on disk; what is current changes by one rename, and so does the link `cuda`
// by which a bundle finds its CUDA libraries. So a process killed at any moment leaves the old
// installation or the new one, and leftovers only where clean looks for them. Readers need no lock.
// All links in it are relative, so that it can be moved as a whole.
//
// Nothing is removed but what the store made itself, which it tells by names: whatever else lies in
// its folder stays, and a folder that is not empty and has no marker is not used at all. The
// package uses no network and never prints.
package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

const (
	downloadsDir = "downloads"
	stagingDir   = "staging"
	bundlesDir   = "bundles"
	runtimesDir  = "runtimes"
	linksDir     = "links"
	releasesDir  = "releases"
	pointersDir  = "pointers"
	installsDir  = "installs"
	logsDir      = "logs"
	serversDir   = "servers"
)

// A Store is a folder.
type Store struct {
	Home string
	// Machine says what the programs are to be started on: which installation is the current one
	// depends on it. Where nil, it is a machine without a GPU.
	Machine func() launch.Machine
	// TrustAll uses the store although others may write to it.
	TrustAll bool
}

// ThisMachine is the machine that the store's programs are to be started on.
func (s *Store) ThisMachine() launch.Machine {
	if s.Machine == nil {
		return launch.Machine{Kind: "none", Folders: []string{}}
	}
	return s.Machine()
}

func (s *Store) path(elements ...string) string {
	return filepath.Join(append([]string{s.Home}, elements...)...)
}

// folder names where an archive is unpacked to.
func folder(a manifests.Artifact) string {
	const digits = 12 // as in the runtime's own name
	if a.Kind == manifests.KindCUDART {
		return filepath.Join(runtimesDir, a.Stem())
	}
	return filepath.Join(bundlesDir, a.Stem()+"-"+a.Tar.SHA256[:digits])
}

// Folder returns the absolute path of the folder that an archive is unpacked to, and reports
// whether the folder exists. A caller that relies on that, and not on an Install, has it verified
// first.
func (s *Store) Folder(a manifests.Artifact) (string, bool) {
	path := s.path(folder(a))
	info, err := os.Lstat(path)
	return path, err == nil && info.IsDir()
}

// Locked is a store that no other process changes meanwhile.
type Locked struct {
	*Store
	unlock func() error
}

// A HomeError is a store that cannot be worked in.
type HomeError struct {
	Doing, Home string
	Err         error
}

func (e *HomeError) Error() string { return e.Doing + ": " + e.Err.Error() }
func (e *HomeError) Unwrap() error { return e.Err }

// homeError makes what went wrong in a store's folder a HomeError, unless it says itself what it
// is.
func homeError(doing, home string, err error) error {
	var foreign *ForeignError
	if errors.As(err, &foreign) {
		return err
	}
	return &HomeError{doing, home, err}
}

// Hint says what helps.
func (e *HomeError) Hint() string {
	if errors.Is(e.Err, fs.ErrPermission) || errors.Is(e.Err, unix.EROFS) || errors.Is(e.Err, unix.ENOTDIR) || errors.Is(e.Err, fs.ErrNotExist) {
		return "this user cannot write there: --home (LLCUDA_HOME) chooses another folder than " + e.Home
	}
	return ""
}

// Lock makes the folder and takes its lock, and clears away what killed processes left. While
// another process has the lock, waiting, if not nil, is called once for each such process.
func (s *Store) Lock(ctx context.Context, command string, waiting func(Holder)) (*Locked, error) {
	if err := s.Trusted(); err != nil {
		return nil, err
	}
	if err := s.create(); err != nil {
		return nil, homeError("making the store", s.Home, err)
	}
	me := Holder{PID: os.Getpid(), Command: command, Since: time.Now().UTC().Truncate(time.Second)}
	unlock, err := lockFile(ctx, s.path(lockName), me, waiting)
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		return nil, homeError("locking the store", s.Home, err)
	}
	l := &Locked{s, unlock}
	if err := l.clean(); err != nil {
		return nil, errors.Join(homeError("opening the store", s.Home, err), l.Close())
	}
	return l, nil
}

// Close releases the lock.
func (l *Locked) Close() error { return l.unlock() }

// Partial is the file that a transfer of these bytes resumes from.
func (s *Store) Partial(sha256 string) string { return s.path(downloadsDir, sha256+".partial") }

// Documents are the files that vouch for a release's archives, byte for byte.
type Documents struct {
	Manifest, Sums, Signature []byte
}

// Keep stores a release's documents, for when there is no network.
func (l *Locked) Keep(release string, d Documents) error {
	stage, err := os.MkdirTemp(l.path(stagingDir), "release-")
	if err != nil {
		return err
	}
	if err := os.Chmod(stage, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		manifests.ManifestName: d.Manifest, manifests.SumsName: d.Sums, manifests.SignatureName: d.Signature,
	} {
		if data == nil {
			continue // an unsigned release, where the user insisted
		}
		if err := writeFile(filepath.Join(stage, name), data); err != nil {
			return err
		}
	}
	if have, err := l.Documents(release); err == nil && string(have.Sums) == string(d.Sums) && string(have.Signature) == string(d.Signature) {
		return os.RemoveAll(stage)
	}
	return l.put(stage, l.path(releasesDir, release))
}

// Documents are what Keep stored. The caller verifies them again.
func (s *Store) Documents(release string) (Documents, error) {
	var d Documents
	for name, data := range map[string]*[]byte{
		manifests.ManifestName: &d.Manifest, manifests.SumsName: &d.Sums, manifests.SignatureName: &d.Signature,
	} {
		read, err := os.ReadFile(s.path(releasesDir, release, name))
		if err != nil && !(name == manifests.SignatureName && errors.Is(err, fs.ErrNotExist)) {
			return Documents{}, err
		}
		*data = read
	}
	return d, nil
}

// Relative makes a path below the store one that is relative to it, as an Install has them.
func (s *Store) Relative(path string) string {
	if inside, ok := strings.CutPrefix(path, s.Home+string(filepath.Separator)); ok {
		return inside
	}
	return path
}
