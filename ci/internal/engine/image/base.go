package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

// baseRecipe is part of the key of a made base: a change of what MakeBase does with the same
// packages needs a new number.
const baseRecipe = 1

// baseEpoch is the time of everything in a made base that is not older: the day of Debian 12.15,
// whose packages the lock names.
var baseEpoch = time.Date(2026, time.July, 11, 0, 0, 0, 0, time.UTC)

// MadeBase is a base image made here.
type MadeBase struct {
	Tarball string // an OCI image layout in a tar file
	Digest  string // of the image's manifest: sha256:…
}

// ToolError reports the failure of a program that this package runs.
type ToolError struct {
	Tool   string
	Output string // its last lines
	Err    error
}

func (e *ToolError) Error() string {
	return fmt.Sprintf("running %s: %v\n%s", e.Tool, e.Err, e.Output)
}

func (e *ToolError) Unwrap() error { return e.Err }

// MakeBase makes a Debian base image from the lock's base packages, which Fetch has downloaded into
// cacheDir. It needs root and a Debian or Ubuntu host, installs mmdebstrap if that is missing, and
// changes nothing else. The same lock produces the same bytes; an image made before is returned
// unchanged.
func MakeBase(ctx context.Context, lock cuda12.Lock, cacheDir string) (MadeBase, error) {
	debs := lock.Of(cuda12.Base)
	if len(debs) == 0 {
		return MadeBase{}, errors.New("making the base image: the lock has no base packages")
	}
	dir := filepath.Join(cacheDir, "base")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return MadeBase{}, fmt.Errorf("making the base image: %w", err)
	}
	// One maker at a time: two builds that start together share the result.
	turn := flock.New(filepath.Join(dir, "lock"))
	if _, err := turn.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return MadeBase{}, fmt.Errorf("waiting for another build that makes the base image: %w", err)
	}
	defer turn.Close()

	key := sha256.Sum256(fmt.Appendf(nil, "%d\n%s", baseRecipe, debs.Encode()))
	tarball := filepath.Join(dir, hex.EncodeToString(key[:])+".oci.tar")
	if digest, err := readLayoutDigest(tarball); err == nil {
		return MadeBase{Tarball: tarball, Digest: digest}, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return MadeBase{}, fmt.Errorf("reading %s: %w", tarball, err)
	}
	if err := sweep(dir); err != nil {
		return MadeBase{}, fmt.Errorf("making the base image: %w", err)
	}
	if err := needBootstrap(ctx); err != nil {
		return MadeBase{}, err
	}
	work, err := os.MkdirTemp(dir, workPrefix)
	if err != nil {
		return MadeBase{}, fmt.Errorf("making the base image: %w", err)
	}
	defer os.RemoveAll(work)
	if err := bootstrap(ctx, debs, cacheDir, work); err != nil {
		return MadeBase{}, fmt.Errorf("making the base image: %w", err)
	}
	layer := filepath.Join(work, "layer.tar")
	if err := normalise(filepath.Join(work, "root.tar"), layer); err != nil {
		return MadeBase{}, fmt.Errorf("making the base image: %w", err)
	}
	digest, err := writeLayout(layer, tarball)
	if err != nil {
		return MadeBase{}, fmt.Errorf("making the base image: %w", err)
	}
	return MadeBase{Tarball: tarball, Digest: digest}, nil
}

const workPrefix = "work-"

// sweep removes what a killed maker left behind.
func sweep(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, workPrefix+"*"))
	if err != nil {
		return err
	}
	for _, work := range left {
		if err := os.RemoveAll(work); err != nil {
			return err
		}
	}
	return nil
}

// needBootstrap installs mmdebstrap if it is missing.
func needBootstrap(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("making the base image: it needs root")
	}
	if _, err := exec.LookPath("mmdebstrap"); err == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("making the base image: it needs mmdebstrap, and this host has no apt-get to install it with")
	}
	install := []string{"apt-get", "install", "--yes", "--no-install-recommends", "mmdebstrap"}
	if err := runTool(ctx, install...); err == nil {
		return nil
	}
	// The package lists of a fresh host are empty.
	if err := runTool(ctx, "apt-get", "update"); err != nil {
		return err
	}
	return runTool(ctx, install...)
}

// bootstrap has mmdebstrap make work/root.tar from a repository of the debs alone: no network, no
// other version.
func bootstrap(ctx context.Context, debs cuda12.Lock, cacheDir, work string) error {
	repository := filepath.Join(work, "debs")
	if err := os.Mkdir(repository, 0o755); err != nil {
		return err
	}
	var stanzas bytes.Buffer
	var names []string
	for _, p := range debs {
		file := path.Base(p.Path)
		if err := os.Link(filepath.Join(FilesDir(cacheDir), p.SHA256), filepath.Join(repository, file)); err != nil {
			return fmt.Errorf("taking %s from the cache: %w", p.Name, err)
		}
		control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", filepath.Join(repository, file)).Output()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		fmt.Fprintf(&stanzas, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n", bytes.TrimSpace(control), file, p.Size, p.SHA256)
		names = append(names, p.Name)
	}
	if err := os.WriteFile(filepath.Join(repository, "Packages"), stanzas.Bytes(), 0o644); err != nil {
		return err
	}
	where := url.URL{Path: repository}
	command := exec.CommandContext(ctx, "mmdebstrap",
		"--mode=root", "--variant=apt", "--architectures=amd64", "--format=tar",
		"--include="+strings.Join(names, ","),
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		`--aptopt=APT::Sandbox::User "root"`, // the cache may be readable for root alone
		`--aptopt=Acquire::Languages "none"`,
		// As in Debian's slim images. Copyright files stay: the licenses of what bundles contain
		// are read from them.
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--dpkgopt=force-unsafe-io",
		"", // no suite: the repository is flat
		filepath.Join(work, "root.tar"),
		"deb [trusted=yes] copy://"+where.EscapedPath()+" ./",
	)
	command.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", baseEpoch.Unix()), "TMPDIR="+work, "LC_ALL=C")
	return runCommand(ctx, command)
}

func runTool(ctx context.Context, arguments ...string) error {
	command := exec.CommandContext(ctx, arguments[0], arguments[1:]...)
	command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return runCommand(ctx, command)
}

// runCommand runs a program in mount and process namespaces of its own: however it is killed, it
// leaves no mount and no process behind.
func runCommand(ctx context.Context, command *exec.Cmd) error {
	const excerpt = 4 << 10 // of the program's output, for the error
	runtime.LockOSThread()  // Pdeathsig goes by the thread that starts the program
	defer runtime.UnlockOSThread()
	command.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, // as opposed to Cloneflags, this makes the mounts private
		Cloneflags:   syscall.CLONE_NEWPID,
		Pdeathsig:    syscall.SIGKILL,
	}
	output, err := command.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		if len(output) > excerpt {
			output = output[len(output)-excerpt:]
		}
		return &ToolError{Tool: filepath.Base(command.Path), Output: strings.TrimSpace(string(output)), Err: err}
	}
	return nil
}

// isLeftOut reports whether a path is one that a made base does not have: what is of this host or
// of this run, and device files, which every container brings itself.
func isLeftOut(name string) bool {
	for _, exact := range []string{
		"etc/resolv.conf", "etc/hostname", "etc/machine-id", "etc/apt/sources.list",
		"etc/apt/apt.conf.d/99mmdebstrap", "var/lib/dbus/machine-id", "var/cache/ldconfig/aux-cache",
		"var/lib/apt/extended_states", "etc/.pwd.lock",
	} {
		if name == exact {
			return true
		}
	}
	for _, below := range []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/tmp/", "var/log/", "var/lib/apt/lists/", "var/cache/apt/", "var/cache/debconf/"} {
		if strings.HasPrefix(name, below) && name != below {
			return true
		}
	}
	return strings.HasPrefix(name, "var/lib/dpkg/") && strings.HasSuffix(name, "-old")
}

// normalise writes the tar file from as the tar file to with one header format, numeric owners and
// no time later than baseEpoch.
func normalise(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	source, sink := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := source.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the root file system: %w", err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if name == "" || isLeftOut(name) || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			continue
		}
		clean := &tar.Header{
			Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size,
			Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime, Format: tar.FormatPAX,
		}
		if h.Typeflag == tar.TypeLink {
			clean.Linkname = strings.TrimPrefix(h.Linkname, "./")
		}
		if clean.ModTime.After(baseEpoch) {
			clean.ModTime = baseEpoch
		}
		clean.ModTime = clean.ModTime.Truncate(time.Second)
		if err := sink.WriteHeader(clean); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
		if _, err := io.Copy(sink, source); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	if err := sink.Close(); err != nil {
		return err
	}
	return out.Close()
}
