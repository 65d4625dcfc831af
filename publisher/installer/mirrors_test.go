package installer

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
)

func TestMirrors(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		b.serve()
		bin := filepath.Join(b.home, ".local", "bin")
		parent, name := filepath.Split(b.release)
		if err := os.Symlink(b.release, filepath.Join(t.TempDir(), tag)); err != nil {
			t.Fatal(err)
		}
		for _, mirror := range []string{
			"http://127.0.0.1:1 " + b.mirror + "/", "/nowhere file://" + b.release, "ftp://127.0.0.1 " + filepath.Join(parent, name),
		} {
			b.mirror = mirror
			b.run(0, "does not give llcuda-fetch-linux-amd64.tar.gz", nil)
			b.installed(bin, "amd64")
			if err := os.RemoveAll(b.home); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(b.home, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		byTag := t.TempDir()
		if err := os.Symlink(b.release, filepath.Join(byTag, tag)); err != nil {
			t.Fatal(err)
		}
		b.mirror = byTag + "/{release}"
		b.run(0, "downloading "+byTag+"/"+tag+"/llcuda-fetch-linux-amd64.tar.gz", nil)
		b.installed(bin, "amd64")
		if err := os.Remove(filepath.Join(bin, Program)); err != nil {
			t.Fatal(err)
		}

		// A folder with a blank in its name.
		blank := filepath.Join(t.TempDir(), "a b")
		b.mirror = blank
		b.run(6, "a folder with a blank in its name must be the only one and must exist", nil)
		if err := os.Symlink(b.release, blank); err != nil {
			t.Fatal(err)
		}
		b.run(0, "downloading "+blank+"/llcuda-fetch-linux-amd64.tar.gz", nil)
		b.installed(bin, "amd64")
	})
}

// A mirror that is slow is left for the next one, and has time where it is the only one, or the only one that has the
// archive. Curl itself takes a minute to find that out: here it says so at once, as told by its options.
func TestSlowMirror(t *testing.T) {
	b := newBench(t, "dash")
	requests := b.serve()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b.write(filepath.Join(dir, "curl"), []byte("#!/bin/sh\ncase $* in *--speed-limit\\ 16384\\ --speed-time\\ 60*"+b.mirror+"*) exit 28 ;; esac\nexec "+curl+" \"$@\"\n"))
	if err := os.Chmod(filepath.Join(dir, "curl"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.path = append([]string{dir}, b.path...)
	slow := b.mirror
	for name, test := range map[string]struct {
		mirrors  string
		want     string
		requests int32
	}{
		"the next one has it":  {slow + " " + b.release, slow + " is slow\ndownloading " + b.release, 0},
		"alone":                {slow, "installed", 1},
		"the others have none": {slow + " /nowhere", slow + " is slow\n", 1},
	} {
		requests.Store(0)
		b.mirror = test.mirrors
		b.run(0, test.want, []string{"--prefix", filepath.Join(b.home, name)})
		b.installed(filepath.Join(b.home, name, "bin"), "amd64")
		if got := requests.Load(); got != test.requests {
			t.Errorf("%s: %d requests, not %d", name, got, test.requests)
		}
	}
}

// A mirror whose archive has no end does not fill the disk.
func TestEndlessMirror(t *testing.T) {
	inEachShell(t, func(t *testing.T, b *bench) {
		const most = 200 << 20 // bytes; the limit is in units of 512 or 1024
		var sent atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for chunk := make([]byte, 1<<20); sent.Load() < most; {
				n, err := w.Write(chunk)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		}))
		t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
		b.mirror = server.URL
		b.run(6, "nothing was installed", nil)
		b.installed("", "")
		if got := sent.Load(); got >= most {
			t.Errorf("%d bytes were taken", got)
		}
	})
}
