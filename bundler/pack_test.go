package bundler_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// unpackTar is the tar in an archive.
func unpackTar(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader
	if strings.HasSuffix(name, ".gz") {
		r, err = gzip.NewReader(f)
	} else {
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f); err == nil {
			defer d.Close()
		}
		r = d
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func sha256Of(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

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
		if a.Kind != manifests.KindBundle || a.URL != a.Name || a.SM != 75 || a.Release != "v1.1.0-runtime" {
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

// mixedTree is a bundle with a large file of the kind that compresses: runs of noise that come back
// changed, near and far, as kernels do in device code.
func mixedTree(t testing.TB, size int) string {
	t.Helper()
	dir := newTree(t, "sm75.fatbin")
	rng := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 0, size+1<<12)
	for len(data) < size {
		if len(data) > 1<<12 && rng.IntN(4) > 0 {
			n := 16 + rng.IntN(1<<11)
			from := len(data) - n - rng.IntN(min(len(data)-n, 16<<20))
			data = append(data, data[from:from+n]...)
			continue
		}
		for range 1 + rng.IntN(64) {
			data = append(data, byte(rng.ExpFloat64()*16))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "THIRD_PARTY_LICENSES.txt"), data[:size], 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
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

// Whoever holds the folder's lock removes what killed processes left, however new it is, and
// nothing else.
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
		"another name":    {func(_ *testing.T, _ string, m *manifests.Metadata) { m.Name = "llcuda-bins-sm80" }, []string{": metadata"}},
		"another SM":      {func(_ *testing.T, _ string, m *manifests.Metadata) { m.SM = 86 }, []string{": metadata"}},
		"name and SM":     {func(_ *testing.T, _ string, m *manifests.Metadata) { m.SM, m.Name = 86, "llcuda-bins-sm86" }, []string{": metadata"}},
		"cubins":          {func(_ *testing.T, _ string, m *manifests.Metadata) { m.DeviceCode.Cubin = []matrix.SM{75, 80} }, []string{"metadata.json: metadata"}},
		"PTX":             {func(_ *testing.T, _ string, m *manifests.Metadata) { m.DeviceCode.PTX = []matrix.SM{75} }, []string{"metadata.json: metadata"}},
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

// bigTree has a license that does not compress, so that packing takes a while and some room.
func bigTree(t testing.TB, size int64) string {
	t.Helper()
	dir := newTree(t, "sm75.fatbin")
	random, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer random.Close()
	f, err := os.Create(filepath.Join(dir, "THIRD_PARTY_LICENSES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, random, size); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPackCancelled(t *testing.T) {
	fsys := open(t, bigTree(t, 8<<20))
	meta := describe(t, fsys, rules(75))
	out := filepath.Join(t.TempDir(), "dist")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calls atomic.Int32
	_, err := bundler.Pack(ctx, fsys, meta, out, bundler.PackOptions{Progress: func(at measure.Progress) {
		if calls.Add(1); at.Done > at.Total/4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	if calls.Load() == 0 {
		t.Error("it was cancelled before it began")
	}
	if n := names(t, out); n != nil {
		t.Errorf("it left %v", n)
	}
}

func TestPackProgress(t *testing.T) {
	fsys := open(t, newTree(t, "sm75.fatbin"))
	var last, all int64
	artifacts, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(75)), t.TempDir(), bundler.PackOptions{Progress: func(at measure.Progress) {
		if at.Done < last {
			t.Errorf("progress went back from %d to %d", last, at.Done)
		}
		last, all = at.Done, at.Total
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 * artifacts[0].Tar.Size; last != want || all != want {
		t.Errorf("progress ended at %d of %d, want %d", last, all, want)
	}
}

// TestPackDiskFull packs onto a file system that is too small, a tmpfs of this process's own.
func TestPackDiskFull(t *testing.T) {
	out := t.TempDir()
	if err := syscall.Mount("tmpfs", out, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("this needs root and a kernel that lets it mount: %v", err)
	}
	defer syscall.Unmount(out, syscall.MNT_DETACH)
	kept := filepath.Join(out, "llcuda-bins-sm75.tar.gz")
	if err := os.WriteFile(kept, []byte("an older archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	fsys := open(t, bigTree(t, 4<<20))
	_, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(75)), out, bundler.PackOptions{})
	var full *bundler.SpaceError
	if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error: %v", err)
	}
	if full.Needed < 4<<20 || !strings.HasPrefix(full.Path, out) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error says too little: %v", err)
	}
	if diff := cmp.Diff([]string{"llcuda-bins-sm75.tar.gz"}, names(t, out)); diff != "" {
		t.Errorf("partial files stayed: %s", diff)
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != "an older archive" {
		t.Errorf("the older archive is gone: %q, %v", data, err)
	}
}

// runtimeTree is the CUDA runtime's tree, of stand-ins.
func runtimeTree(t testing.TB) string {
	t.Helper()
	b := newToolbox(t)
	dir := filepath.Join(t.TempDir(), "runtime")
	if err := os.MkdirAll(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"} {
		if err := os.Rename(b.stub(name, name, "f"), filepath.Join(dir, "lib", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte("License Agreement for NVIDIA CUDA Toolkit\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func packRuntime(t testing.TB, dir string) (string, []manifests.Artifact) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist")
	artifacts, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75).Toolkit, out, bundler.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out, artifacts
}

func TestPackRuntime(t *testing.T) {
	dir := runtimeTree(t)
	out, artifacts := packRuntime(t, dir)
	base := "llcuda-cudart-cu12-" + artifacts[0].Tar.SHA256[:12]
	if diff := cmp.Diff([]string{base + ".tar.gz", base + ".tar.zst"}, names(t, out)); diff != "" {
		t.Error(diff)
	}
	var held []string
	for _, f := range artifacts[1].Libraries {
		held = append(held, f.Path)
	}
	if diff := cmp.Diff([]string{"LICENSE", "lib/libcublas.so.12", "lib/libcublasLt.so.12", "lib/libcudart.so.12", "metadata.json"}, held); diff != "" {
		t.Error(diff)
	}
	_, bundle := pack(t, newTree(t, "sm75.fatbin"), 75)
	if _, err := manifests.New("v1.1.0-runtime", append(bundle, artifacts...), nil); err != nil {
		t.Errorf("a release cannot be made of the artifacts: %v", err)
	}

	// The next release has the same files with other times.
	for _, name := range held[:4] {
		if err := os.Chtimes(filepath.Join(dir, name), time.Now(), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	_, again := packRuntime(t, dir)
	if diff := cmp.Diff(artifacts, again); diff != "" {
		t.Errorf("the runtime's bytes changed: %s", diff)
	}
}

// With a cache, the runtime is compressed once for all folders, and a damaged cache is noticed.
func TestPackRuntimeCache(t *testing.T) {
	dir, cache := runtimeTree(t), filepath.Join(t.TempDir(), "cache")
	_, want := packRuntime(t, dir)
	packInto := func(out string) {
		t.Helper()
		got, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75).Toolkit, out, bundler.PackOptions{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for _, a := range want {
			data, err := os.ReadFile(filepath.Join(out, a.Name))
			if err != nil {
				t.Fatal(err)
			}
			if sha256Of(data) != a.SHA256 {
				t.Errorf("%s has other bytes than without a cache", a.Name)
			}
		}
	}
	packInto(t.TempDir())
	before, err := os.Stat(filepath.Join(cache, want[1].Name))
	if err != nil {
		t.Fatal(err)
	}
	packInto(t.TempDir())
	if after, err := os.Stat(filepath.Join(cache, want[1].Name)); err != nil || !os.SameFile(before, after) {
		t.Errorf("the cache was written again: %v", err)
	}
	if err := os.WriteFile(filepath.Join(cache, want[0].Name), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	packInto(t.TempDir())
}

func TestPackRuntimeRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(t *testing.T, b *toolbox, lib string) error
		want   []string
	}{
		"missing library": {func(_ *testing.T, _ *toolbox, lib string) error {
			return os.Remove(filepath.Join(lib, "libcublas.so.12"))
		}, []string{"lib/libcublas.so.12: runtime"}},
		"link": {func(_ *testing.T, _ *toolbox, lib string) error {
			return errors.Join(os.Rename(filepath.Join(lib, "libcudart.so.12"), filepath.Join(lib, "libcudart.so.12.4.127")), os.Symlink("libcudart.so.12.4.127", filepath.Join(lib, "libcudart.so.12")))
		}, []string{"lib/libcudart.so.12.4.127: runtime", "lib/libcudart.so.12: runtime"}},
		"another major version": {func(_ *testing.T, b *toolbox, lib string) error {
			return os.Rename(b.stub("libcudart.so.13", "", "f"), filepath.Join(lib, "libcudart.so.12"))
		}, []string{"lib/libcudart.so.12: runtime"}},
		"no library": {func(_ *testing.T, _ *toolbox, lib string) error {
			return os.WriteFile(filepath.Join(lib, "libcudart.so.12"), []byte("GROUP ( libcudart.so.12.4 )"), 0o644)
		}, []string{"lib/libcudart.so.12: runtime"}},
		"no licence": {func(_ *testing.T, _ *toolbox, lib string) error { return os.Remove(filepath.Join(lib, "../LICENSE")) }, []string{"LICENSE: runtime"}},
		"another licence": {func(_ *testing.T, _ *toolbox, lib string) error {
			return os.WriteFile(filepath.Join(lib, "../LICENSE"), []byte("MIT"), 0o644)
		}, []string{"LICENSE: runtime"}},
		"the driver": {func(_ *testing.T, b *toolbox, lib string) error {
			return os.Rename(b.stub("libcuda.so.1", "", "f"), filepath.Join(lib, "libcuda.so.1"))
		}, []string{"lib/libcuda.so.1: runtime"}},
		"needs what is not there": {func(_ *testing.T, b *toolbox, lib string) error {
			b.library(filepath.Join(lib, "libcudart.so.12"), module{source: "void g(void); void f(void) { g(); }", soname: "libcudart.so.12", needs: []string{b.stub("libodd.so.1", "", "g")}})
			return nil
		}, []string{"lib/libcudart.so.12: runtime"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := runtimeTree(t)
			if err := test.change(t, newToolbox(t), filepath.Join(dir, "lib")); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "dist")
			_, err := bundler.PackRuntime(context.Background(), open(t, dir), rules(75).Toolkit, out, bundler.PackOptions{})
			if diff := cmp.Diff(test.want, findingsIn(t, err)); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
			if n := names(t, out); n != nil {
				t.Errorf("it wrote %v", n)
			}
		})
	}
}
