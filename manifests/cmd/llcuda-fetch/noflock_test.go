package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
)

// noFlock runs a program for which flock(2) gives an error, as it does on file systems without it: noflock ERRNO PROGRAM
// [argument...]. The kernel's seccomp gives the error, and the program keeps it through exec.
func noFlock() {
	errno, err := strconv.Atoi(os.Args[1])
	if err == nil {
		err = refuse(unix.SYS_FLOCK, uint32(errno))
	}
	if err == nil {
		var path string
		if path, err = exec.LookPath(os.Args[2]); err == nil {
			err = syscall.Exec(path, os.Args[2:], os.Environ())
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(125)
}

// refuse has a system call give an error in this thread, which is to call exec.
func refuse(call, errno uint32) error {
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// On file systems without flock the store has a lock all the same: several at once install once, and leave nothing.
func TestWithoutFlock(t *testing.T) {
	for _, errno := range []syscall.Errno{unix.ENOLCK, unix.ENOSYS, unix.EOPNOTSUPP} {
		t.Run(errno.Error(), func(t *testing.T) {
			r := fetchtest.New(t, fetchtest.Options{Padding: 200_000})
			mirror := transfertest.New(t, r.Dir, transfertest.Fault{})
			work := t.TempDir()
			key, home := filepath.Join(work, "key.pub"), filepath.Join(work, "store")
			if err := os.WriteFile(key, r.PublicKey(t), 0o644); err != nil {
				t.Fatal(err)
			}
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					cmd := child(t, "noflock", strconv.Itoa(int(errno)), "llcuda-fetch", "--home", home, "--public-key", key, "--mirror", mirror.URL, "--as-host", "../../testdata/hosts/rtx-2080-ti.json")
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%v\n%s", err, out)
					}
				})
			}
			group.Wait()
			archives := 0
			for _, request := range mirror.Requests() {
				if strings.HasSuffix(request.URL.Path, ".tar.zst") {
					archives++
				}
			}
			if archives != 2 {
				t.Errorf("%d archives were downloaded, not 2", archives)
			}
			for _, pattern := range []string{"lock.*", "staging/*"} {
				if left, err := filepath.Glob(filepath.Join(home, pattern)); err != nil || len(left) > 0 {
					t.Errorf("left behind: %q, %v", left, err)
				}
			}
		})
	}
}
