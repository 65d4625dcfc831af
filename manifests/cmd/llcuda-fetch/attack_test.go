package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
)

// TestAttacks tries every way in which an attacker could get something else installed. Each attempt ends with exit code
// 3, names what is wrong, and leaves a store with nothing installed: no bundle, no library and no partial download to
// resume from.
func TestAttacks(t *testing.T) {
	const top = "llcuda-bins-sm75/"
	const bundle, twin = "llcuda-bins-sm75.tar.zst", "llcuda-bins-sm75.tar.gz"
	add := func(e fetchtest.Entry) fetchtest.Options {
		return fetchtest.Options{Edit: func(list []fetchtest.Entry) []fetchtest.Entry { return append(list, e) }}
	}
	replace := func(t *testing.T, dir, name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	evil := []byte("#!/bin/sh\ntouch /tmp/llcuda-evil\n")
	for name, test := range map[string]struct {
		options fetchtest.Options
		edit    func(t *testing.T, r, other *fetchtest.Release)
		want    string
	}{
		"no signature": {edit: func(t *testing.T, r, _ *fetchtest.Release) {
			if err := os.Remove(filepath.Join(r.Dir, manifests.SignatureName)); err != nil {
				t.Fatal(err)
			}
		}, want: "is not signed"},
		"no signature but an empty file": {edit: func(t *testing.T, r, _ *fetchtest.Release) { replace(t, r.Dir, manifests.SignatureName, nil) }, want: "verifying the signature"},
		"another signer":                 {edit: func(t *testing.T, r, other *fetchtest.Release) { r.SignWith(t, other) }, want: "verifying the signature"},
		"a signature over other sums": {edit: func(t *testing.T, r, other *fetchtest.Release) {
			replace(t, r.Dir, manifests.SumsName, other.Read(t, manifests.SumsName))
		}, want: "it is over a file with sha256"},
		"sums with another line": {edit: func(t *testing.T, r, _ *fetchtest.Release) {
			replace(t, r.Dir, manifests.SumsName, append(r.Read(t, manifests.SumsName), []byte(strings.Repeat("0", 64)+"  zzz\n")...))
		}, want: "it is over a file with sha256"},
		"a changed manifest": {edit: func(t *testing.T, r, _ *fetchtest.Release) {
			replace(t, r.Dir, manifests.ManifestName, bytes.Replace(r.Read(t, manifests.ManifestName), []byte("Some GPU"), []byte("Evil GPU"), 1))
		}, want: "manifest.json"},
		"the manifest of another release": {edit: func(t *testing.T, r, other *fetchtest.Release) {
			replace(t, r.Dir, manifests.ManifestName, other.Read(t, manifests.ManifestName))
		}, want: "manifest.json"},
		"a manifest and sums that do not agree": {edit: func(t *testing.T, r, other *fetchtest.Release) {
			replace(t, r.Dir, bundle, other.Read(t, bundle))
			r.Sum(t)
			r.Sign(t)
		}, want: "do not agree on " + bundle},
		"a changed bundle": {edit: func(t *testing.T, r, _ *fetchtest.Release) {
			data := r.Read(t, bundle)
			data[len(data)/2] ^= 1
			replace(t, r.Dir, bundle, data)
		}, want: bundle},
		"the twin in the bundle's place": {edit: func(t *testing.T, r, _ *fetchtest.Release) { replace(t, r.Dir, bundle, r.Read(t, twin)) }, want: bundle},
		"another release's bundle":       {edit: func(t *testing.T, r, other *fetchtest.Release) { replace(t, r.Dir, bundle, other.Read(t, bundle)) }, want: bundle},
		"a changed runtime": {edit: func(t *testing.T, r, _ *fetchtest.Release) {
			for _, a := range r.Manifest.Assets {
				if a.Kind == manifests.KindCUDART {
					data := r.Read(t, a.Name)
					data[len(data)-1] ^= 1
					replace(t, r.Dir, a.Name, data)
				}
			}
		}, want: "llcuda-cudart-cu12"},
		"a changed program in a signed bundle": {options: fetchtest.Options{Edit: func(list []fetchtest.Entry) []fetchtest.Entry {
			for i := range list {
				if list[i].Name == top+"binaries/cuda12/llama-server" {
					list[i].Body = evil
				}
			}
			return list
		}}, want: "binaries/cuda12/llama-server"},
		"a library more in a signed runtime": {options: fetchtest.Options{EditRuntime: func(list []fetchtest.Entry) []fetchtest.Entry {
			return append(list, fetchtest.Entry{Name: "llcuda-cudart-cu12/lib/libevil.so", Mode: 0o755, Body: evil})
		}}, want: "it is not one of the files"},
		"a path up":        {options: add(fetchtest.Entry{Name: top + "../../../evil", Mode: 0o755, Body: evil}), want: "does not lie in the archive's folder"},
		"an absolute path": {options: add(fetchtest.Entry{Name: "/tmp/llcuda-evil", Mode: 0o755, Body: evil}), want: "does not lie in the archive's folder"},
		"a link out":       {options: add(fetchtest.Entry{Name: top + "lib/evil", Link: "/etc"}), want: "leaves the archive"},
		"a link up":        {options: add(fetchtest.Entry{Name: top + "lib/evil", Link: "../../../../current"}), want: "leaves the archive"},
		"a hard link":      {options: add(fetchtest.Entry{Name: top + "lib/evil", Link: "/etc/passwd", Type: tar.TypeLink}), want: "neither a file nor a folder nor a link"},
		"a setuid program": {options: add(fetchtest.Entry{Name: top + "lib/evil", Mode: 0o4755, Body: evil}), want: "its mode is 04755"},
		"a link of ours":   {options: add(fetchtest.Entry{Name: top + "cuda", Link: "lib"}), want: "it is not one of the files"},
		"a sparse file": {options: add(fetchtest.Entry{Name: top + "evil", Mode: 0o644, Body: append([]byte("1\n12884901888\n0\n"), make([]byte, 496)...),
			PAX: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": top + "evil", "GNU.sparse.realsize": "12884901888"}}), want: "it has the extended header"},
		"a bomb": {options: fetchtest.Options{EditRuntime: func(list []fetchtest.Entry) []fetchtest.Entry {
			return append(list, fetchtest.Entry{Name: "llcuda-cudart-cu12/lib/zeros", Mode: 0o644, Body: make([]byte, 512<<20)})
		}}, want: "more than 400 times its own size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, other := fetchtest.New(t, test.options), fetchtest.New(t, fetchtest.Options{Tag: "v1.2.0-runtime"})
			work := t.TempDir()
			key, home := filepath.Join(work, "key.pub"), filepath.Join(work, "store")
			if err := os.WriteFile(key, r.PublicKey(t), 0o644); err != nil {
				t.Fatal(err)
			}
			if test.edit != nil {
				test.edit(t, r, other)
			}
			cmd := child(t, "llcuda-fetch", "--home", home, "--public-key", key, "--mirror", r.Dir, "--as-host", "../../testdata/hosts/rtx-2080-ti.json")
			wantRefused(t, cmd, home, test.want)
		})
	}
}

// wantRefused runs a command that must be refused with a message that has want in it, and must leave nothing installed
// in the store.
func wantRefused(t *testing.T, cmd *exec.Cmd, home, want string) {
	t.Helper()
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != exitUntrusted || !strings.Contains(string(out), want) || !strings.Contains(string(out), "\nhint: ") {
		t.Errorf("exit code %d, want %d with %q and a hint:\n%s", code, exitUntrusted, want, out)
	}
	var left []string
	for _, dir := range []string{"current", "bundles/*", "runtimes/*", "installs/*", "releases/*", "downloads/*", "staging/*"} {
		found, err := filepath.Glob(filepath.Join(home, dir))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	// A good archive may be there beside a bad one: it was verified, and is not installed.
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			continue // a download of which nothing came
		}
		if base := filepath.Base(filepath.Dir(path)); base != "bundles" && base != "runtimes" || strings.Contains(string(out), filepath.Base(path)) {
			t.Errorf("left behind: %s", path)
		}
	}
	if _, err := os.Lstat("/tmp/llcuda-evil"); err == nil {
		t.Error("what the attacker sent was run or written")
	}
}

// exitUntrusted is a refused signature or checksum.
const exitUntrusted = 3
