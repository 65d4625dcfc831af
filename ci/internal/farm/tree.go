package farm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

const (
	libDir     = "lib"
	binaries   = "binaries"
	noticeFile = "THIRD_PARTY_LICENSES.txt"
)

// assemble makes a bundle's tree in dir from its two halves, the programs in a folder named for the
// toolkit, and the links through which these find their loadable backends: llama.cpp looks for
// them beside the executable.
func assemble(dir, host, device, toolkit string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	programs := path.Join(binaries, toolkit)
	var notices []byte
	for _, half := range []string{host, device} {
		if err := graft(dir, half, programs); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(half, noticeFile))
		if err != nil {
			return err
		}
		notices = append(notices, text...)
	}
	if err := os.WriteFile(filepath.Join(dir, noticeFile), notices, 0o644); err != nil {
		return err
	}
	return linkBackends(dir, programs)
}

// graft adds the files of half to dir, but for its notices, and what lies in its binaries to
// programs. They share their bytes where the file system can; nothing writes to a half once it is
// done.
func graft(dir, half, programs string) error {
	return filepath.WalkDir(half, func(from string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(half, from)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if rest, ok := strings.CutPrefix(name, binaries); ok {
			to = filepath.Join(dir, programs, rest)
		}
		switch {
		case name == noticeFile:
			return nil
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(from)
			if err != nil {
				return err
			}
			return os.Symlink(target, to)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a link", name)
		}
		if err := os.Link(from, to); err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
		return duplicate(from, to)
	})
}

// duplicate copies a file where links to it cannot be made.
func duplicate(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// linkBackends links every loadable backend next to the programs.
func linkBackends(dir, programs string) error {
	entries, err := os.ReadDir(filepath.Join(dir, libDir))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, programs), 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		if !isBackend(entry.Name()) {
			continue
		}
		link := filepath.Join(dir, programs, entry.Name())
		if err := os.Symlink(path.Join("..", "..", libDir, entry.Name()), link); err != nil {
			return err
		}
	}
	return nil
}

// isBackend reports whether a library is a loadable backend (libggml-cuda.so,
// libggml-cpu-haswell.so), not one that programs are linked with (libggml-base.so).
func isBackend(name string) bool {
	return strings.HasPrefix(name, "libggml-") && strings.HasSuffix(name, ".so") && name != "libggml-base.so"
}
