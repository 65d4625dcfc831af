package hub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These tests need root, as the other tests of mounts and users do.

// alone runs f on a thread of its own, with its own mounts. The thread ends with it, and whatever f makes of it.
func alone(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func mountAt(dir, kind string, flags uintptr, options string) error {
	return unix.Mount(kind, dir, kind, flags, options)
}

const nobody = 65534

// asNobody makes this thread another user's.
func asNobody() error {
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of the thread alone, other than syscall.Setresuid
		if _, _, errno := unix.RawSyscall(call, nobody, nobody, nobody); errno != 0 {
			return errno
		}
	}
	return nil
}

// refuseLinks makes the kernel refuse symbolic links to this thread.
func refuseLinks(errno unix.Errno) error {
	const numberAt = 0 // in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: numberAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SYMLINKAT, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// Where links are refused, or lead nowhere, the snapshot has the file itself, as huggingface_hub does it.
func TestLinksRefused(t *testing.T) {
	for name, refuses := range map[string]func(cache string) error{
		"EPERM":       func(string) error { return refuseLinks(unix.EPERM) },
		"EACCES":      func(string) error { return refuseLinks(unix.EACCES) },
		"EIO":         func(string) error { return refuseLinks(unix.EIO) },
		"EINVAL":      func(string) error { return refuseLinks(unix.EINVAL) },
		"nosymfollow": func(cache string) error { return mountAt(cache, "tmpfs", unix.MS_NOSYMFOLLOW, "") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			c := newClient(t, s)
			if err := os.MkdirAll(c.Cache, 0o777); err != nil {
				t.Fatal(err)
			}
			weights := s.files[commit1]["model.gguf"]
			alone(t, func() error {
				if err := refuses(c.Cache); err != nil {
					return err
				}
				for _, again := range []bool{false, true} {
					r, err := download(t, c, "org/model:model.gguf", Want{SHA256: sha256Of(weights)})
					if err != nil || r.Cached != again {
						return fmt.Errorf("%+v, %w", r, err)
					}
					if data, err := os.ReadFile(r.Path); err != nil || string(data) != weights {
						t.Errorf("%d bytes, %v", len(data), err)
					}
					if info, err := os.Lstat(r.Path); err != nil || !info.Mode().IsRegular() {
						t.Errorf("%v, %v", info, err)
					}
				}
				for path := range tree(t, c.Cache) {
					if strings.Contains(path, ".tmp") || strings.Contains(path, "/blobs/") {
						t.Errorf("%s is left", path)
					}
				}
				return nil
			})
		})
	}
}

// Users who share a cache share the folders, and each can have left files that the others may only read.
func TestOtherUsersPartial(t *testing.T) {
	s := newServer(t)
	weights := s.files[commit1]["model.gguf"]
	c := newClient(t, s)
	c.Cache = sharedFolder(t)
	blob := filepath.Join(c.Cache, "models--org--model/blobs", sha256Of(weights))
	lock := filepath.Join(c.Cache, ".locks/models--org--model", sha256Of(weights)+".lock")
	for path, content := range map[string]string{blob + "." + ownPartial + ".incomplete": weights[:1000], lock: "", filepath.Join(c.Cache, "models--org--model/refs/main"): commit2} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	openFolders(t, c.Cache)
	// What this user had brought before it was interrupted.
	own := blob + ".0000fffe.incomplete"
	if err := errors.Join(os.WriteFile(own, []byte(weights[:20000]), 0o644), os.Chown(own, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	alone(t, func() error {
		if err := asNobody(); err != nil {
			return err
		}
		r, err := download(t, c, "org/model:model.gguf", Want{})
		if err != nil {
			return err
		}
		return Verify(r.Path, Want{SHA256: sha256Of(weights)})
	})
	if list := s.take(); !strings.HasPrefix(list[len(list)-1], "GET cdn bytes=20000-") {
		t.Errorf("it did not go on: %q", list)
	}
	if data, err := os.ReadFile(blob + "." + ownPartial + ".incomplete"); err != nil || string(data) != weights[:1000] {
		t.Errorf("the other user's file has %d bytes, %v", len(data), err)
	}
	if _, err := os.Stat(own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the partial file is left: %v", err)
	}
}

// sharedFolder is a folder that other users reach.
func sharedFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shared")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openFolders(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o777)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A file that the cache has is taken from one that cannot be written to; another one is an error that says what to do.
func TestReadOnlyCache(t *testing.T) {
	for name, closes := range map[string]func(cache string) error{
		"mount": func(cache string) error {
			if err := unix.Mount(cache, cache, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Mount("", cache, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
		},
		"another user's": func(string) error { return asNobody() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			c := newClient(t, s)
			c.Cache = sharedFolder(t)
			if err := os.Chmod(c.Cache, 0o755); err != nil {
				t.Fatal(err)
			}
			get(t, c, "org/model:model.gguf", Want{})
			alone(t, func() error {
				if err := closes(c.Cache); err != nil {
					return err
				}
				if r, err := download(t, c, "org/model:model.gguf", Want{}); err != nil || !r.Cached {
					t.Errorf("%+v, %v", r, err)
				}
				for _, name := range []string{"org/model:README.md", "org/model:model.gguf@refs/pr/1"} {
					_, err := download(t, c, name, Want{})
					var closed *CacheError
					if !errors.As(err, &closed) || closed.Cache != c.Cache || !strings.Contains(closed.Hint(), "HF_HUB_CACHE") {
						t.Errorf("%s: %v (%T)", name, err, err)
					}
				}
				return nil
			})
		})
	}
}
