package bundler_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestVerifyArchive(t *testing.T) {
	out, artifacts := pack(t, newTree(t, "sm75.fatbin"), 75)
	runtimeOut, runtimeArtifacts := packRuntime(t, runtimeTree(t))
	for i := range artifacts {
		for _, good := range []struct {
			dir string
			manifests.Artifact
		}{{out, artifacts[i]}, {runtimeOut, runtimeArtifacts[i]}} {
			name := filepath.Join(good.dir, good.Name)
			verified, err := bundler.VerifyArchive(context.Background(), name, good.Artifact, rulesFor)
			if err != nil || len(verified.Findings) > 0 {
				t.Errorf("%s: %v, %v", good.Name, verified.Findings, err)
			}
			read, err := bundler.ReadArtifact(context.Background(), name)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(good.Artifact, read); diff != "" {
				t.Errorf("%s: packed and read differ: %s", good.Name, diff)
			}
		}
	}
}

// A member is one entry of a tar, to be tampered with.
type member struct {
	tar.Header
	data []byte
}

// A forgery is an archive in the hands of an attacker who can change everything in it and in the
// manifest.
type forgery struct {
	t       *testing.T
	name    string
	members []*member
}

func (f *forgery) at(path string) *member {
	f.t.Helper()
	for _, m := range f.members {
		if _, rest, ok := strings.Cut(strings.TrimSuffix(m.Name, "/"), "/"); ok && rest == path {
			return m
		}
	}
	f.t.Fatalf("the archive has no %s", path)
	return nil
}

func (f *forgery) set(path string, data []byte) {
	f.t.Helper()
	m := f.at(path)
	m.data, m.Size = data, int64(len(data))
}

func (f *forgery) remove(path string) {
	f.t.Helper()
	m := f.at(path)
	f.members = slices.DeleteFunc(f.members, func(o *member) bool { return o == m })
}

// add puts a member where its name sorts.
func (f *forgery) add(m member) {
	m.ModTime, m.Size = time.Unix(epoch, 0), int64(len(m.data))
	f.members = append(f.members, &m)
	slices.SortStableFunc(f.members, func(a, b *member) int {
		return strings.Compare(strings.TrimSuffix(a.Name, "/"), strings.TrimSuffix(b.Name, "/"))
	})
}

func (f *forgery) file(path, text string) {
	f.add(member{Header: tar.Header{Typeflag: tar.TypeReg, Name: "llcuda-bins-sm75/" + path, Mode: 0o644}, data: []byte(text)})
}

func (f *forgery) link(path, target string) {
	f.add(member{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "llcuda-bins-sm75/" + path, Linkname: target, Mode: 0o777}})
}

// metadata changes metadata.json, whether or not what comes out makes sense.
func (f *forgery) metadata(change func(map[string]any)) {
	f.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(f.at("metadata.json").data, &doc); err != nil {
		f.t.Fatal(err)
	}
	change(doc)
	data, err := json.Marshal(doc)
	if err != nil {
		f.t.Fatal(err)
	}
	var meta manifests.Metadata
	if err := json.Unmarshal(data, &meta); err != nil {
		f.t.Fatal(err)
	}
	if data, err = json.MarshalIndent(meta, "", "  "); err != nil {
		f.t.Fatal(err)
	}
	f.set("metadata.json", append(data, '\n'))
}

// relist makes metadata.json list the files as they are now: the forger is consistent.
func (f *forgery) relist() {
	f.t.Helper()
	var files []any
	for _, m := range f.members {
		_, path, _ := strings.Cut(m.Name, "/")
		if m.Typeflag == tar.TypeDir || path == "metadata.json" {
			continue
		}
		file := map[string]any{"path": path, "size": len(m.data), "mode": "0644"}
		if m.Linkname != "" {
			file["link"], file["mode"] = m.Linkname, "0777"
		} else {
			file["sha256"] = sha256Of(m.data)
			if m.Mode&0o100 != 0 {
				file["mode"] = "0755"
			}
		}
		files = append(files, file)
	}
	f.metadata(func(doc map[string]any) { doc["files"] = files })
}

func (f *forgery) tar() []byte {
	f.t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range f.members {
		if err := w.WriteHeader(&m.Header); err != nil {
			f.t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.t.Fatal(err)
	}
	return buf.Bytes()
}

func newForgery(t *testing.T, name string) *forgery {
	t.Helper()
	f := &forgery{t: t, name: filepath.Base(name)}
	r := tar.NewReader(bytes.NewReader(unpackTar(t, name)))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return f
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		f.members = append(f.members, &member{Header: *h, data: data})
	}
}

func compress(t *testing.T, format string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&buf)
	if format == manifests.FormatTarZst {
		var err error
		if w, err = zstd.NewWriter(&buf); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestForgedArchive is a table of attacks. The attacker can also write the manifest, so its entry has
// the digests of the forged file and the forged tar. Every finding here therefore comes from the
// archive alone.
func TestForgedArchive(t *testing.T) {
	tree := newTree(t, "sm75.fatbin")
	out, artifacts := pack(t, tree, 75)
	const top = "llcuda-bins-sm75/"
	swap := func(name string, compile func(b *toolbox, out, base string)) func(*forgery) {
		return func(f *forgery) {
			b := newToolbox(f.t)
			lib := filepath.Join(b.dir, "swapped.so")
			compile(b, lib, filepath.Join(tree, "lib/libggml-base.so.0.5.0"))
			data, err := os.ReadFile(lib)
			if err != nil {
				f.t.Fatal(err)
			}
			f.set(name, data)
			f.relist()
		}
	}
	cudaWith := func(fatbin string) func(*forgery) {
		return swap("lib/libggml-cuda.so", func(b *toolbox, out, base string) { b.library(out, b.cudaBackend(base, fatbin)) })
	}
	says := func(path ...string) func(value any) func(*forgery) {
		return func(value any) func(*forgery) {
			return func(f *forgery) {
				f.metadata(func(doc map[string]any) {
					for _, key := range path[:len(path)-1] {
						doc = doc[key].(map[string]any)
					}
					doc[path[len(path)-1]] = value
				})
			}
		}
	}
	for name, test := range map[string]struct {
		change func(*forgery)
		want   []string
		rename string
	}{
		"changed file":           {change: func(f *forgery) { f.set("LICENSE", []byte("TERMS\n")) }, want: []string{"LICENSE: metadata"}},
		"longer file":            {change: func(f *forgery) { f.set("LICENSE", []byte("more terms\n")) }, want: []string{"LICENSE: metadata"}},
		"missing file":           {change: func(f *forgery) { f.remove("LICENSE") }, want: []string{"LICENSE: metadata", "LICENSE: missing-file"}},
		"missing file, relisted": {change: func(f *forgery) { f.remove("LICENSE"); f.relist() }, want: []string{"LICENSE: missing-file"}},
		"missing program":        {change: func(f *forgery) { f.remove("binaries/cuda12/llama-cli"); f.relist() }, want: []string{"binaries/cuda12/llama-cli: missing-file"}},
		"extra file":             {change: func(f *forgery) { f.file("lib/evil.so", "x") }, want: []string{"lib/evil.so: elf", "lib/evil.so: metadata"}},
		"extra file, relisted":   {change: func(f *forgery) { f.file("run.sh", "x"); f.relist() }, want: []string{"run.sh: unexpected-file"}},
		"swapped programs":       {change: func(f *forgery) { f.set("binaries/cuda12/llama-cli", []byte("\x7fELF")); f.relist() }, want: []string{"binaries/cuda12/llama-cli: elf"}},
		"changed link":           {change: func(f *forgery) { f.at("lib/libllama.so").Linkname = "libggml.so.0" }, want: []string{"lib/libllama.so: metadata"}},
		"backend link, relisted": {change: func(f *forgery) {
			f.at("binaries/cuda12/libggml-cuda.so").Linkname = "../../lib/libggml-cpu-x64.so"
			f.relist()
		}, want: []string{"binaries/cuda12/libggml-cuda.so: link"}},
		"program not executable": {change: func(f *forgery) { f.at("binaries/cuda12/llama-cli").Mode = 0o644 }, want: []string{"binaries/cuda12/llama-cli: file-mode", "binaries/cuda12/llama-cli: metadata"}},
		"setuid":                 {change: func(f *forgery) { f.at("binaries/cuda12/llama-cli").Mode = 0o4755 }, want: []string{top + "binaries/cuda12/llama-cli: archive", "binaries/cuda12/llama-cli: metadata"}},
		"world-writable":         {change: func(f *forgery) { f.at("LICENSE").Mode = 0o666 }, want: []string{top + "LICENSE: archive", "LICENSE: metadata"}},

		"renamed bundle": {rename: "llcuda-bins-sm86", change: func(f *forgery) {}, want: []string{"", "llcuda-bins-sm75/: archive"}},
		"renamed bundle and folder": {rename: "llcuda-bins-sm86", change: func(f *forgery) {
			for _, m := range f.members {
				m.Name = strings.Replace(m.Name, "sm75", "sm86", 1)
			}
		}, want: []string{"metadata.json: metadata"}},
		"renamed SM everywhere": {rename: "llcuda-bins-sm86", change: func(f *forgery) {
			f.metadata(func(doc map[string]any) {
				doc["name"], doc["sm"], doc["architecture"] = "llcuda-bins-sm86", 86, "Ampere"
				doc["device_code"] = map[string]any{"cubin": []int{86}, "ptx": []int{}}
			})
			for _, m := range f.members {
				m.Name = strings.Replace(m.Name, "sm75", "sm86", 1)
			}
		}, want: []string{"lib/libggml-cuda.so: device-code", "metadata.json: metadata"}},
		"cubin of another SM": {change: cudaWith("sm86.fatbin"), want: []string{"lib/libggml-cuda.so: device-code", "metadata.json: metadata"}},
		"second cubin":        {change: cudaWith("sm75.fatbin sm86.fatbin"), want: []string{"lib/libggml-cuda.so: device-code", "metadata.json: metadata"}},
		"PTX added":           {change: cudaWith("sm75.fatbin ptx75.fatbin"), want: []string{"lib/libggml-cuda.so: device-code", "metadata.json: metadata"}},
		"device code removed": {change: cudaWith(""), want: []string{"lib/libggml-cuda.so: device-code", "metadata.json: metadata"}},
		"RUNPATH": {change: swap("lib/libggml-cuda.so", func(b *toolbox, out, base string) {
			m := b.cudaBackend(base, "sm75.fatbin")
			m.runPath = "/tmp/evil"
			b.library(out, m)
		}), want: []string{"lib/libggml-cuda.so: runpath"}},

		"metadata says another glibc":   {change: says("requires", "glibc")("2.17"), want: []string{"metadata.json: metadata"}},
		"metadata says another GLIBCXX": {change: says("requires", "glibcxx")("3.4.9"), want: []string{"metadata.json: metadata"}},
		"metadata says other libraries": {change: says("requires", "libraries")([]string{"libc.so.6"}), want: []string{"metadata.json: metadata"}},
		"metadata says other variants":  {change: says("requires", "cpu_variants")([]string{"x64"}), want: []string{"metadata.json: metadata"}},
		"metadata says another driver":  {change: says("requires", "driver_min", "cubin")("470.1.1"), want: []string{"metadata.json: metadata"}},
		"metadata says PTX":             {change: says("device_code", "ptx")([]int{75}), want: []string{"metadata.json: metadata"}},
		"metadata says other GPUs":      {change: says("gpus")([]string{"another GPU"}), want: []string{"metadata.json: metadata"}},
		"metadata says another toolkit": {change: says("toolkit", "cuda")("12.9.0"), want: []string{"metadata.json: metadata"}},
		"metadata says another time":    {change: says("build", "source_date_epoch")(1), want: []string{": archive"}},
		"metadata lists another digest": {change: func(f *forgery) {
			f.metadata(func(doc map[string]any) { doc["files"].([]any)[0].(map[string]any)["sha256"] = strings.Repeat("0", 64) })
		}, want: []string{"LICENSE: metadata"}},
		"metadata lists another size": {change: func(f *forgery) {
			f.metadata(func(doc map[string]any) { doc["files"].([]any)[0].(map[string]any)["size"] = 1 })
		}, want: []string{"LICENSE: metadata"}},
		"metadata lists another mode": {change: func(f *forgery) {
			f.metadata(func(doc map[string]any) { doc["files"].([]any)[0].(map[string]any)["mode"] = "0755" })
		}, want: []string{"LICENSE: metadata"}},
		"metadata in another form": {change: func(f *forgery) { f.set("metadata.json", append(f.at("metadata.json").data, '\n')) }, want: []string{"metadata.json: metadata"}},
		"metadata is not JSON":     {change: func(f *forgery) { f.set("metadata.json", []byte("no")) }, want: []string{"metadata.json: metadata"}},
		"metadata missing":         {change: func(f *forgery) { f.remove("metadata.json") }, want: []string{"metadata.json: archive", "metadata.json: metadata"}},

		"link out of the archive": {change: func(f *forgery) { f.link("lib/zzz", "../../../etc/passwd") }, want: []string{top + "lib/zzz: archive"}},
		"another order":           {change: func(f *forgery) { slices.Reverse(f.members[1:3]) }, want: []string{top + "LICENSE: archive"}},
		"another format":          {change: func(f *forgery) { f.at("LICENSE").Format = tar.FormatGNU }, want: []string{": archive"}},
		"empty folder": {change: func(f *forgery) {
			f.add(member{Header: tar.Header{Typeflag: tar.TypeDir, Name: top + "share/", Mode: 0o755}})
		}, want: []string{": archive", "share: unexpected-file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, original := range artifacts {
				f := newForgery(t, filepath.Join(out, original.Name))
				test.change(f)
				dir, want := t.TempDir(), original
				if test.rename != "" {
					want.Name = test.rename + "." + want.Format
					want.URL = want.Name
				}
				inner := f.tar()
				packed := compress(t, want.Format, inner)
				name := filepath.Join(dir, want.Name)
				if err := os.WriteFile(name, packed, 0o644); err != nil {
					t.Fatal(err)
				}
				want.SHA256, want.Size = sha256Of(packed), int64(len(packed))
				want.Tar = &manifests.Digest{SHA256: sha256Of(inner), Size: int64(len(inner))}
				verified, err := bundler.VerifyArchive(context.Background(), name, want, rulesFor)
				if err != nil {
					t.Fatal(err)
				}
				// What the manifest says of the rest is another matter.
				findings := slices.DeleteFunc(verified.Findings, func(f bundler.Finding) bool { return f.Rule == bundler.RuleManifest })
				got := keysOf(findings)
				if len(got) == 0 {
					t.Fatalf("%s: nothing was noticed", want.Name)
				}
				for _, key := range test.want {
					if key != "" && !slices.Contains(got, key) {
						t.Errorf("%s: no finding %q in %q", want.Name, key, findings)
					}
				}
			}
		})
	}
}

// TestMislabelled gives good archives wrong entries in the manifest.
func TestMislabelled(t *testing.T) {
	out, artifacts := pack(t, newTree(t, "sm75.fatbin"), 75)
	for name, change := range map[string]func(*manifests.Artifact){
		"sha256": func(a *manifests.Artifact) { a.SHA256 = strings.Repeat("0", 64) },
		"size":   func(a *manifests.Artifact) { a.Size++ },
		"tar": func(a *manifests.Artifact) {
			a.Tar = &manifests.Digest{SHA256: strings.Repeat("0", 64), Size: a.Tar.Size}
		},
		"sm":           func(a *manifests.Artifact) { a.Row = matrix.Row{SM: 80} },
		"architecture": func(a *manifests.Artifact) { a.Architecture = "Ampere" },
		"gpus":         func(a *manifests.Artifact) { a.GPUs = nil },
		"device_code": func(a *manifests.Artifact) {
			a.DeviceCode = &manifests.DeviceCode{Cubin: []matrix.Code{{SM: 75}}, PTX: []matrix.Code{{SM: 75}}}
		},
		"requires":  func(a *manifests.Artifact) { r := *a.Requires; r.Glibc = "2.17"; a.Requires = &r },
		"llama_cpp": func(a *manifests.Artifact) { l := *a.LlamaCPP; l.Version = "9"; a.LlamaCPP = &l },
		"toolkit":   func(a *manifests.Artifact) { a.Toolkit = &manifests.Toolkit{CUDA: "13.0.0", NVCC: "13.0.1"} },
		"release":   func(a *manifests.Artifact) { a.Release = "v2" },
		"kind":      func(a *manifests.Artifact) { a.Kind = manifests.KindCUDART },
	} {
		want := artifacts[1]
		change(&want)
		verified, err := bundler.VerifyArchive(context.Background(), filepath.Join(out, want.Name), want, rulesFor)
		if err != nil {
			t.Fatal(err)
		}
		if len(verified.Findings) != 1 || verified.Findings[0].Rule != bundler.RuleManifest || !strings.HasPrefix(verified.Findings[0].Detail, name+": ") {
			t.Errorf("%s: %v", name, verified.Findings)
		}
	}
}

func TestDamagedArchive(t *testing.T) {
	out, artifacts := pack(t, newTree(t, "sm75.fatbin"), 75)
	for _, a := range artifacts {
		data, err := os.ReadFile(filepath.Join(out, a.Name))
		if err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(data)
		flipped[len(flipped)/2] ^= 1
		for what, damaged := range map[string][]byte{"truncated": data[:len(data)-9], "flipped": flipped, "empty": nil, "other": []byte("<html>404</html>")} {
			name := filepath.Join(t.TempDir(), a.Name)
			if err := os.WriteFile(name, damaged, 0o644); err != nil {
				t.Fatal(err)
			}
			verified, err := bundler.VerifyArchive(context.Background(), name, a, rulesFor)
			if err != nil || len(verified.Findings) == 0 {
				t.Errorf("%s %s: %v, %v", what, a.Name, verified.Findings, err)
			}
		}
	}
}

func TestReadArtifactOfOtherFiles(t *testing.T) {
	for _, name := range []string{"llcuda-fetch", "llcuda-bins-sm75.zip", "SHA256SUMS"} {
		if _, err := bundler.ReadArtifact(context.Background(), filepath.Join(t.TempDir(), name)); err == nil || !strings.Contains(err.Error(), "neither a bundle") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
