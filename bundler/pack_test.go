package bundler_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestPack(t *testing.T) {
	dir := newTree(t, "sm75.fatbin")
	out, artifacts := pack(t, dir, 75)
	if diff := cmp.Diff([]string{"llcuda-bins-sm75.tar.gz", "llcuda-bins-sm75.tar.zst"}, names(t, out)); diff != "" {
		t.Fatal(diff)
	}
	var tars [][]byte
	for _, a := range artifacts {
		file, err := os.ReadFile(filepath.Join(out, a.Name))
		if err != nil {
			t.Fatal(err)
		}
		inner := unpackTar(t, filepath.Join(out, a.Name))
		tars = append(tars, inner)
		if a.SHA256 != sha256Of(file) || a.Size != int64(len(file)) {
			t.Errorf("%s: the artifact says %d bytes, %s", a.Name, a.Size, a.SHA256)
		}
		if want := (&manifests.Digest{SHA256: sha256Of(inner), Size: int64(len(inner))}); !cmp.Equal(want, a.Tar) {
			t.Errorf("%s: tar: %s", a.Name, cmp.Diff(want, a.Tar))
		}
		if a.Kind != manifests.KindBundle || a.URL != a.Name || (a.Row != matrix.Row{SM: 75}) || a.Release != "v1.1.0-runtime" {
			t.Errorf("artifact: %+v", a)
		}
	}
	if !bytes.Equal(tars[0], tars[1]) {
		t.Fatal("the twins hold different tars")
	}

	var got []string
	r := tar.NewReader(bytes.NewReader(tars[0]))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != epoch || h.Format != tar.FormatUSTAR {
			t.Errorf("header depends on the machine: %+v", h)
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%04o %s %s", h.Mode, h.Name, h.Linkname)))
	}
	want := []string{
		"0755 llcuda-bins-sm75/",
		"0644 llcuda-bins-sm75/LICENSE",
		"0644 llcuda-bins-sm75/THIRD_PARTY_LICENSES.txt",
		"0755 llcuda-bins-sm75/binaries/",
		"0755 llcuda-bins-sm75/binaries/cuda12/",
		"0777 llcuda-bins-sm75/binaries/cuda12/libggml-cpu-haswell.so ../../lib/libggml-cpu-haswell.so",
		"0777 llcuda-bins-sm75/binaries/cuda12/libggml-cpu-x64.so ../../lib/libggml-cpu-x64.so",
		"0777 llcuda-bins-sm75/binaries/cuda12/libggml-cuda.so ../../lib/libggml-cuda.so",
		"0755 llcuda-bins-sm75/binaries/cuda12/llama-bench",
		"0755 llcuda-bins-sm75/binaries/cuda12/llama-cli",
		"0755 llcuda-bins-sm75/binaries/cuda12/llama-quantize",
		"0755 llcuda-bins-sm75/binaries/cuda12/llama-server",
		"0755 llcuda-bins-sm75/lib/",
		"0777 llcuda-bins-sm75/lib/libggml-base.so libggml-base.so.0",
		"0777 llcuda-bins-sm75/lib/libggml-base.so.0 libggml-base.so.0.5.0",
		"0755 llcuda-bins-sm75/lib/libggml-base.so.0.5.0",
		"0755 llcuda-bins-sm75/lib/libggml-cpu-haswell.so",
		"0755 llcuda-bins-sm75/lib/libggml-cpu-x64.so",
		"0755 llcuda-bins-sm75/lib/libggml-cuda.so",
		"0777 llcuda-bins-sm75/lib/libggml.so libggml.so.0",
		"0777 llcuda-bins-sm75/lib/libggml.so.0 libggml.so.0.5.0",
		"0755 llcuda-bins-sm75/lib/libggml.so.0.5.0",
		"0777 llcuda-bins-sm75/lib/libllama.so libllama.so.0",
		"0777 llcuda-bins-sm75/lib/libllama.so.0 libllama.so.0.5.0",
		"0755 llcuda-bins-sm75/lib/libllama.so.0.5.0",
		"0777 llcuda-bins-sm75/lib/libmtmd.so libmtmd.so.0",
		"0777 llcuda-bins-sm75/lib/libmtmd.so.0 libmtmd.so.0.5.0",
		"0755 llcuda-bins-sm75/lib/libmtmd.so.0.5.0",
		"0644 llcuda-bins-sm75/metadata.json",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The bytes may depend on nothing but the files: not on the folder, its modes and times, the day,
// or the threads. The tree is large enough for many blocks of both compressors.
func TestPackIsReproducible(t *testing.T) {
	dir := mixedTree(t, 24<<20)
	first, _ := pack(t, dir, 75)
	other := filepath.Join(t.TempDir(), "elsewhere")
	if out, err := exec.Command("cp", "-a", dir, other).CombinedOutput(); err != nil {
		t.Fatalf("copying the tree: %v\n%s", err, out)
	}
	for _, name := range []string{"lib/libggml-cuda.so", "LICENSE", "lib"} {
		p := filepath.Join(other, name)
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chtimes(p, time.Now(), time.Unix(1, 0)), os.Chmod(p, info.Mode()&^0o077)); err != nil {
			t.Fatal(err)
		}
	}
	fsys := open(t, other)
	meta := describe(t, fsys, rules(75))
	for _, threads := range []int{1, 2, 7} {
		out := t.TempDir()
		if _, err := bundler.Pack(context.Background(), fsys, meta, out, bundler.PackOptions{Concurrency: threads, Epoch: time.Unix(epoch, 0)}); err != nil {
			t.Fatal(err)
		}
		for _, name := range names(t, first) {
			a, errA := os.ReadFile(filepath.Join(first, name))
			b, errB := os.ReadFile(filepath.Join(out, name))
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s with %d threads has other bytes", name, threads)
			}
		}
	}
}

func TestPackAgain(t *testing.T) {
	ctx := context.Background()
	dir := newTree(t, "sm75.fatbin")
	out, first := pack(t, dir, 75)
	stamp := func() map[string]time.Time {
		times := make(map[string]time.Time)
		for _, name := range names(t, out) {
			info, err := os.Stat(filepath.Join(out, name))
			if err != nil {
				t.Fatal(err)
			}
			times[name] = info.ModTime()
		}
		return times
	}
	fsys := open(t, dir)
	again := func() []manifests.Artifact {
		t.Helper()
		artifacts, err := bundler.Pack(ctx, fsys, describe(t, fsys, rules(75)), out, bundler.PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return artifacts
	}

	before := stamp()
	if diff := cmp.Diff(first, again()); diff != "" {
		t.Errorf("packing the same tree again: %s", diff)
	}
	if diff := cmp.Diff(before, stamp()); diff != "" {
		t.Errorf("an archive that was right has been written again: %s", diff)
	}

	// A damaged twin is written again, the good one is not.
	damaged := filepath.Join(out, "llcuda-bins-sm75.tar.zst")
	if err := os.WriteFile(damaged, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again()); diff != "" {
		t.Errorf("packing over a damaged twin: %s", diff)
	}
	if !stamp()["llcuda-bins-sm75.tar.gz"].Equal(before["llcuda-bins-sm75.tar.gz"]) {
		t.Error("the good twin has been written again")
	}

	// Trailing data is damage too.
	f, err := os.OpenFile(damaged, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if diff := cmp.Diff(first, again()); diff != "" {
		t.Errorf("packing over a twin with trailing data: %s", diff)
	}

	// Another tree replaces both.
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("other terms\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := again()
	for i := range second {
		if second[i].SHA256 == first[i].SHA256 || second[i].Tar.SHA256 != second[0].Tar.SHA256 {
			t.Errorf("%s was not replaced", second[i].Name)
		}
	}
	if n := names(t, out); len(n) != 2 {
		t.Errorf("packing left %v", n)
	}
}

// The holder of the folder's lock removes the files that killed processes left, however new they
// are, and nothing else.
func TestPackRemovesUnfinishedFiles(t *testing.T) {
	dir := newTree(t, "sm75.fatbin")
	out := t.TempDir()
	old, fresh, other := filepath.Join(out, ".llcuda-bins-sm75.tar.gz.1-1.partial"), filepath.Join(out, ".llcuda-bins-sm75.tar.zst.1-2.partial"), filepath.Join(out, ".notes.1.partial")
	for _, name := range []string{old, fresh, other} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	fsys := open(t, dir)
	if _, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(75)), out, bundler.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Base(other), "llcuda-bins-sm75.tar.gz", "llcuda-bins-sm75.tar.zst"}
	if diff := cmp.Diff(want, names(t, out)); diff != "" {
		t.Error(diff)
	}
}

// While another process writes to the folder, its unfinished files are not touched.
func TestPackWaitsForTheFolder(t *testing.T) {
	fsys, out := open(t, newTree(t, "sm75.fatbin")), t.TempDir()
	meta := describe(t, fsys, rules(75))
	unlock, ok, err := bundler.TryLockFolder(out)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	theirs := filepath.Join(out, ".llcuda-bins-sm75.tar.gz.1-1.partial")
	if err := os.WriteFile(theirs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	packed := make(chan error)
	go func() {
		_, err := bundler.Pack(ctx, fsys, meta, out, bundler.PackOptions{})
		packed <- err
	}()
	cancel()
	if err := <-packed; !errors.Is(err, context.Canceled) {
		t.Errorf("packing into a locked folder: %v, want %v", err, context.Canceled)
	}
	if diff := cmp.Diff([]string{filepath.Base(theirs)}, names(t, out)); diff != "" {
		t.Error(diff)
	}
	unlock()
	if _, err := bundler.Pack(context.Background(), fsys, meta, out, bundler.PackOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A bundle whose name, metadata and files disagree cannot be packed.
func TestPackRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string, meta *manifests.Metadata)
		want   []string
	}{
		"another name": {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Name = "llcuda-bins-sm80" }, []string{": metadata"}},
		"another SM":   {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Row.SM = 86 }, []string{": metadata"}},
		"PTX in name":  {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Row.PTX, m.Name = true, "llcuda-bins-ptx75" }, []string{": metadata"}},
		"name and SM":  {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Row.SM, m.Name = 86, "llcuda-bins-sm86" }, []string{": metadata"}},
		"cubins": {func(_ *testing.T, _ string, m *manifests.Metadata) {
			m.DeviceCode.Cubin = []matrix.Code{{SM: 75}, {SM: 80}}
		}, []string{"metadata.json: metadata"}},
		"PTX":             {func(_ *testing.T, _ string, m *manifests.Metadata) { m.DeviceCode.PTX = []matrix.Code{{SM: 75}} }, []string{"metadata.json: metadata"}},
		"PTX driver":      {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Requires.DriverMin.PTX = "550.54.14" }, []string{"metadata.json: metadata"}},
		"glibc":           {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Requires.Glibc = "2.17" }, []string{"metadata.json: metadata"}},
		"GLIBCXX":         {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Requires.GLIBCXX = "3.4.9" }, []string{"metadata.json: metadata"}},
		"libraries":       {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Requires.Libraries = nil }, []string{"metadata.json: metadata"}},
		"CPU variants":    {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Requires.CPUVariants = []string{"zen4"} }, []string{"metadata.json: metadata"}},
		"file not listed": {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Files = m.Files[1:] }, []string{"LICENSE: metadata"}},
		"file that is not there": {func(_ *testing.T, _ string, m *manifests.Metadata) {
			m.Files = append(m.Files, manifests.File{Path: "zzz", Mode: "0644", SHA256: strings.Repeat("0", 64)})
		}, []string{"zzz: metadata"}},
		"size":   {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Files[0].Size++ }, []string{"LICENSE: metadata"}},
		"mode":   {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Files[0].Mode = "0755" }, []string{"LICENSE: metadata"}},
		"digest": {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Files[0].SHA256 = strings.Repeat("0", 64) }, []string{"LICENSE: metadata"}},
		"link": {func(_ *testing.T, _ string, m *manifests.Metadata) {
			i := slices.IndexFunc(m.Files, func(f manifests.File) bool { return f.Link != "" })
			m.Files[i].Link = "libggml-cuda.so"
		}, []string{"binaries/cuda12/libggml-cpu-haswell.so: metadata"}},
		"file changed after it was described": {func(t *testing.T, dir string, _ *manifests.Metadata) {
			if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("TERMS\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"LICENSE: metadata"}},
		"device code changed after it was described": {func(t *testing.T, dir string, _ *manifests.Metadata) {
			b := newToolbox(t)
			b.library(filepath.Join(dir, "lib/libggml-cuda.so"), b.cudaBackend(filepath.Join(dir, "lib/libggml-base.so.0.5.0"), "sm86.fatbin"))
		}, []string{": metadata", "metadata.json: metadata"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newTree(t, "sm75.fatbin")
			fsys := open(t, dir)
			meta := describe(t, fsys, rules(75))
			test.change(t, dir, &meta)
			out := filepath.Join(t.TempDir(), "dist")
			_, err := bundler.Pack(context.Background(), fsys, meta, out, bundler.PackOptions{})
			if err == nil {
				t.Fatal("packed")
			}
			got := findingsIn(t, err)
			for _, want := range test.want {
				if !slices.Contains(got, want) {
					t.Errorf("no finding %q in %v", want, err)
				}
			}
			if n := names(t, out); n != nil {
				t.Errorf("it wrote %v", n)
			}
		})
	}
	t.Run("another epoch", func(t *testing.T) {
		fsys := open(t, newTree(t, "sm75.fatbin"))
		_, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(75)), t.TempDir(), bundler.PackOptions{Epoch: time.Unix(1, 0)})
		if err == nil || !strings.Contains(err.Error(), "source_date_epoch") {
			t.Errorf("error: %v", err)
		}
	})
}
