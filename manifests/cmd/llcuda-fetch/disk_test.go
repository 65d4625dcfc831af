package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
)

// A disk that fills up before a download, during it or while unpacking, or a limit on file sizes: exit code 8, nothing
// installed and nothing lost, and with more room the same command resumes.
func TestFullDisk(t *testing.T) {
	r := fetchtest.New(t, fetchtest.Options{Padding: 6 << 20})
	dir := t.TempDir()
	key, host := filepath.Join(dir, "key.pub"), filepath.Join(dir, "host.json")
	// The host as it was described has room enough: it is the disk that says no.
	described, err := os.ReadFile("../../testdata/hosts/rtx-2080-ti.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{key: r.PublicKey(t), host: described} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name        string
		full, roomy string // shell commands that make the one and the other
		resumes     bool
	}{
		{name: "no room for the archive", full: "mount -t tmpfs -o size=4m tmpfs .", roomy: "mount -o remount,size=64m ."},
		{name: "room for the archive and not for what is in it", full: "mount -t tmpfs -o size=9m tmpfs .", roomy: "mount -o remount,size=64m .", resumes: true},
		{name: "no room at all", full: "mount -t tmpfs -o nr_inodes=1,size=4k tmpfs .", roomy: "mount -o remount,nr_inodes=1000,size=64m ."},
		{name: "no files as large", full: "ulimit -S -f 4096", roomy: "ulimit -S -f unlimited", resumes: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			mirror, another := transfertest.New(t, r.Dir, transfertest.Fault{}), transfertest.New(t, r.Dir, transfertest.Fault{})
			work := t.TempDir()
			run := fmt.Sprintf("llcuda-fetch --home store --public-key %s --as-host %s 2>&1 --mirror ", key, host)
			// In a mount namespace of its own, the mount is private and disappears with the process. The second cd
			// enters the mount.
			script := fmt.Sprintf("cd %[1]s && %[2]s && cd %[1]s; %[3]s%[5]s; echo code $?; echo LEFT; ls -d store/current store/staging/* store/bundles/* 2>/dev/null; echo KEPT; cat store/downloads/*.partial 2>/dev/null | wc -c; %[4]s; echo AGAIN; %[3]s%[6]s; echo code $?", work, test.full, run, test.roomy, mirror.URL, another.URL)
			cmd := child(t, "unshare", "--map-root-user", "--mount", "sh", "-c", script)
			data, err := cmd.CombinedOutput()
			out := string(data)
			if err != nil && strings.Contains(out, "unshare") {
				t.Skipf("this machine makes no namespaces: %s", out)
			}
			first, second, _ := strings.Cut(out, "AGAIN\n")
			first, kept, _ := strings.Cut(first, "KEPT\n")
			first, left, _ := strings.Cut(first, "LEFT\n")
			if !strings.Contains(first, "code 8") || !strings.Contains(first, "\nhint: llcuda-fetch prune --yes") {
				t.Errorf("got %s", first)
			}
			if left != "" {
				t.Errorf("left behind: %s", left)
			}
			if !strings.Contains(second, "code 0") || !strings.Contains(second, "installed in") {
				t.Errorf("with more room, got %s", second)
			}
			// What was kept is not sent again. The documents take less than small.
			const small = 200_000
			size := r.Asset(t, "llcuda-bins-sm75.tar.zst").Size
			bytes, err := strconv.ParseInt(strings.TrimSpace(kept), 10, 64)
			if err != nil {
				t.Fatalf("kept %q", kept)
			}
			if sent := another.Sent(); (bytes > 0) != test.resumes || sent > size-bytes+small {
				t.Errorf("%d bytes were kept of %d (going on: %t), and %d sent the second time", bytes, size, test.resumes, sent)
			}
		})
	}
}
