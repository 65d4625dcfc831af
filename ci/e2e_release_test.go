package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// allCodes are what --sm all builds, and the code in each.
var allCodes = map[string]deviceCode{
	"sm50": cubin("50"), "sm60": cubin("60"), "sm61": cubin("61"), "sm70": cubin("70"), "sm75": cubin("75"), "sm80": cubin("80"), "sm86": cubin("86"),
	"sm89": cubin("89"), "sm90": cubin("90"), "ptx90": {Cubin: []code{}, PTX: []code{"90"}}, "sm100": cubin("100"), "sm120": cubin("120a"),
}

// allRuntimes are the CUDA runtimes of their bundles.
var allRuntimes = map[string]string{
	"sm50": "cu12-sm5x", "sm60": "cu12-sm6x", "sm61": "cu12-sm6x", "sm70": "cu12-sm7x", "sm75": "cu12-sm7x", "sm80": "cu12-sm8x", "sm86": "cu12-sm8x",
	"sm89": "cu12-sm8x", "sm90": "cu12-sm9x", "ptx90": "cu12-ptx90", "sm100": runtimeOfCUDA13, "sm120": runtimeOfCUDA13,
}

const runtimeOfCUDA13 = "cu13"

func cubin(c code) deviceCode { return deviceCode{Cubin: []code{c}, PTX: []code{}} }

// manifest is what these tests read of manifest.json, on their own.
type manifest struct {
	Release string
	Assets  []asset
}

type asset struct {
	Name, Kind, Format, SHA256 string
	SM                         code
	DeviceCode                 *deviceCode `json:"device_code"`
	Tar                        struct{ SHA256 string }
}

type deviceCode struct{ Cubin, PTX []code }

// code is what a piece of device code was compiled for: "75", "120a".
type code string

// UnmarshalJSON reads 75 and "120a".
func (c *code) UnmarshalJSON(data []byte) error {
	*c = code(strings.Trim(string(data), `"`))
	return nil
}

func readManifest(t testing.TB, dir string) manifest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// bundleName is the name of a row's bundle: of "sm75", or of "ptx90".
func bundleName(row string) string { return "llcuda-bins-" + row }

// All SMs come out of one build, and everything that is said of them is true.
func (f *farm) testAllSMs(t *testing.T) {
	dir := f.release(t)

	var got, want []string
	for _, name := range fileNames(t, dir) {
		got = append(got, regexp.MustCompile(`(cu12-sm\dx|cu12-ptx90|cu13)-[0-9a-f]{12}`).ReplaceAllString(name, "$1-DIGEST"))
	}
	for row := range allCodes {
		runtime := "llcuda-cudart-" + allRuntimes[row] + "-DIGEST"
		want = append(want, bundleName(row)+".tar.gz", bundleName(row)+".tar.zst", runtime+".tar.gz", runtime+".tar.zst")
	}
	want = append(want, "SHA256SUMS", "manifest.json")
	slices.Sort(want)
	want = slices.Compact(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files of the release (-want +got):\n%s", diff)
	}

	command(t, dir, "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	f.run(t, "verify", dir).want(t, 0)

	m := readManifest(t, dir)
	if m.Release != e2eRelease {
		t.Errorf("the manifest is of release %s", m.Release)
	}
	codes := map[string]deviceCode{}
	wantCodes := map[string]deviceCode{}
	for _, a := range m.Assets {
		if a.Kind == "bundle" && a.DeviceCode != nil {
			codes[a.Name] = *a.DeviceCode
		}
	}
	for row, held := range allCodes {
		wantCodes[bundleName(row)+".tar.gz"], wantCodes[bundleName(row)+".tar.zst"] = held, held
	}
	if diff := cmp.Diff(wantCodes, codes); diff != "" {
		t.Errorf("device code in the manifest (-want +got):\n%s", diff)
	}

	t.Run("Cuobjdump", func(t *testing.T) {
		tool := f.cuobjdump(t)
		for row := range allCodes {
			if allRuntimes[row] == runtimeOfCUDA13 {
				continue // it is the tool of CUDA 12
			}
			library := filepath.Join(unpack(t, dir, row), "lib", "libggml-cuda.so")
			if diff := cmp.Diff(codes[bundleName(row)+".tar.gz"], listedBy(t, tool, library)); diff != "" {
				t.Errorf("%s (-manifest +cuobjdump):\n%s", row, diff)
			}
		}
	})
}

// Device code that uses __DATE__ and __TIME__ compiles to the same bytes at any time.
func (f *farm) testClockInDeviceCode(t *testing.T) {
	llama := copyTree(t, f.llama)
	change(t, llama, "ggml/src/ggml-cuda/scale.cu", func(text string) string {
		return unseen(text) + `
const char * ggml_cuda_built() { return "built " __DATE__ " " __TIME__; }
__device__ char ggml_cuda_day[] = "device " __DATE__ " " __TIME__;
`
	})
	out := t.TempDir()
	f.build(t, llama, "75", out).want(t, 0)
	library, err := os.ReadFile(filepath.Join(unpack(t, out, "sm75"), "lib", "libggml-cuda.so"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "built Jan  1 1980 00:00:00"; !bytes.Contains(library, []byte(want)) {
		t.Errorf("libggml-cuda.so lacks %q: %q", want, regexp.MustCompile(`(built|device) [A-Z][a-z]{2} .{2,18}`).FindAll(library, -1))
	}
}

// The license texts of a bundle cover what both halves compiled: files of the tree with a notice of
// their own, and headers of the toolkit.
func (f *farm) testNotices(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(unpack(t, f.release(t), "sm75"), "THIRD_PARTY_LICENSES.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"licenses/LICENSE-minijson", "The author of a version function\n *\n * Permission is hereby granted",
		"ggml/src/ggml-cuda/scale.cu", "The author of a scale that is not llama.cpp's own",
		"Duane Merrill", "Apache License", "GCC RUNTIME LIBRARY EXCEPTION",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the licence texts lack %q", want)
		}
	}
}

// Code that needs instructions beyond the x86-64 baseline, and code that contains its file's
// modification time, are refused.
func (f *farm) testStrayCode(t *testing.T) {
	for _, test := range []struct{ name, file, code, want string }{
		{"AVX in the programs' library", "src/llama.cpp", "#pragma GCC target(\"avx2\")\nfloat llama_stray(const float * x, int n) { float s = 0; for (int i = 0; i < n; i++) { s += x[i] * x[i]; } return s; }",
			"libllama.so.0.5.0 has instructions that the baseline of x86-64 lacks: v"},
		{"a file's date", "ggml/src/ggml-cuda/scale.cu", "const char * ggml_cuda_changed() { return __TIMESTAMP__; }", "__TIMESTAMP__ differs from build to build"},
	} {
		t.Run(test.name, func(t *testing.T) {
			llama := copyTree(t, f.llama)
			change(t, llama, test.file, func(text string) string { return text + "\n" + test.code + "\n" })
			f.build(t, llama, "75", t.TempDir()).want(t, 1, test.want)
		})
	}
}

// unpack unpacks a row's bundle with the system's tar and returns its folder.
func unpack(t testing.TB, dir, row string) string {
	t.Helper()
	to := t.TempDir()
	command(t, to, "tar", "-xf", filepath.Join(dir, bundleName(row)+".tar.gz"))
	return filepath.Join(to, bundleName(row))
}

// cuobjdump takes NVIDIA's own reader of device code out of the package that the builder
// is made from. It runs on any glibc system.
func (f *farm) cuobjdump(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("taking cuobjdump out of its package needs dpkg-deb")
	}
	lock, err := os.ReadFile(filepath.Join("..", "docker", "cuda12", "packages.lock"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^cuda nvidia-cuda-toolkit .* ([0-9a-f]{64})$`).FindSubmatch(lock)
	if line == nil {
		t.Fatal("packages.lock has no nvidia-cuda-toolkit")
	}
	dir := t.TempDir()
	command(t, dir, "sh", "-ec", `dpkg-deb --fsys-tarfile "$1" | tar -x ./usr/bin/cuobjdump`, "sh", f.cached(t, string(line[1])))
	return filepath.Join(dir, "usr", "bin", "cuobjdump")
}

// cached finds a file that the build fetched or made on the way.
func (f *farm) cached(t testing.TB, name string) string {
	t.Helper()
	for _, depth := range []string{"*", "*/*"} {
		paths, err := filepath.Glob(filepath.Join(f.cache, depth, name))
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) > 0 {
			return paths[0]
		}
	}
	t.Fatalf("%s has no %s", f.cache, name)
	return ""
}

// listedBy asks cuobjdump what device code a library holds.
func listedBy(t *testing.T, tool, library string) deviceCode {
	t.Helper()
	cubin, ptx := map[code]bool{}, map[code]bool{}
	out := command(t, "", tool, "-lelf", "-lptx", library)
	for _, match := range regexp.MustCompile(`(?m)^(?:ELF|PTX) file .*\.sm_([0-9]+)\.(cubin|ptx)$`).FindAllStringSubmatch(out, -1) {
		if match[2] == "ptx" {
			ptx[code(match[1])] = true
		} else {
			cubin[code(match[1])] = true
		}
	}
	sorted := func(found map[code]bool) []code {
		return slices.AppendSeq([]code{}, slices.Values(slices.Sorted(maps.Keys(found))))
	}
	return deviceCode{Cubin: sorted(cubin), PTX: sorted(ptx)}
}

// fileState is what must not change when nothing is built.
type fileState struct {
	Digest   string
	Modified int64
}

func stateOf(t testing.TB, dir string) map[string]fileState {
	t.Helper()
	state := map[string]fileState{}
	for _, name := range fileNames(t, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		s := fileState{Digest: hex.EncodeToString(sum[:])}
		if strings.HasPrefix(name, "llcuda-") {
			s.Modified = info.ModTime().UnixNano()
		}
		state[name] = s
	}
	return state
}

// The same command again compiles nothing and writes no archive.
func (f *farm) testSecondBuild(t *testing.T) {
	dir := f.release(t)
	before := stateOf(t, dir)
	again := f.build(t, f.llama, "all", dir)
	again.want(t, 0, "nothing was compiled")
	for step, row := range again.table(t) {
		if row.result != "cached" || row.objects != 0 {
			t.Errorf("%s: %s, %d objects; want it cached", step, row.result, row.objects)
		}
	}
	if diff := cmp.Diff(before, stateOf(t, dir)); diff != "" {
		t.Errorf("files before and after (-before +after):\n%s", diff)
	}
}

// verify names every file that something was done to.
func (f *farm) testTamperedRelease(t *testing.T) {
	whole := f.release(t)
	dir := t.TempDir()
	linkFiles(t, whole, dir, "*")
	replace := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	// sum makes SHA256SUMS agree with a file: an attacker who can change one can change both.
	sum := func(name string) {
		t.Helper()
		digest := sha256.Sum256(read(name))
		sums := regexp.MustCompile(`(?m)^[0-9a-f]{64}(  `+regexp.QuoteMeta(name)+`)$`).
			ReplaceAll(read("SHA256SUMS"), []byte(hex.EncodeToString(digest[:])+"$1"))
		replace("SHA256SUMS", sums)
	}

	flipped := read("llcuda-bins-sm50.tar.gz")
	flipped[len(flipped)/2] ^= 1
	replace("llcuda-bins-sm50.tar.gz", flipped)

	// Truncated, with its sum put right.
	cut := read("llcuda-bins-sm60.tar.zst")
	replace("llcuda-bins-sm60.tar.zst", cut[:len(cut)*3/4])
	sum("llcuda-bins-sm60.tar.zst")

	// Another SM's bundle under this name, with its sum put right.
	replace("llcuda-bins-sm70.tar.gz", read("llcuda-bins-sm75.tar.gz"))
	sum("llcuda-bins-sm70.tar.gz")

	if err := os.Remove(filepath.Join(dir, "llcuda-bins-sm80.tar.zst")); err != nil {
		t.Fatal(err)
	}
	replace("llcuda-bins-sm99.tar.gz", read("llcuda-bins-sm86.tar.gz"))

	// The manifest says that older systems can run one SM's bundle, with its sum put right.
	m := string(read("manifest.json"))
	glibc := regexp.MustCompile(`"glibc": "[0-9.]+"`)
	for _, name := range []string{"llcuda-bins-sm61.tar.gz", "llcuda-bins-sm61.tar.zst"} {
		at := strings.Index(m, `"name": "`+name+`"`)
		told := glibc.FindStringIndex(m[at:])
		m = m[:at+told[0]] + `"glibc": "2.5"` + m[at+told[1]:]
	}
	replace("manifest.json", []byte(m))
	sum("manifest.json")

	verdict := f.run(t, "verify", dir)
	verdict.want(t, 3, "hint: ")
	named := map[string]bool{}
	for _, line := range strings.Split(verdict.stdout, "\n") {
		if finding, ok := strings.CutPrefix(line, dir+"/"); ok {
			name, _, _ := strings.Cut(finding, ": ")
			named[name] = true
		}
	}
	want := []string{
		"llcuda-bins-sm50.tar.gz", "llcuda-bins-sm60.tar.zst", "llcuda-bins-sm61.tar.gz", "llcuda-bins-sm61.tar.zst",
		"llcuda-bins-sm70.tar.gz",
		"llcuda-bins-sm80.tar.zst", "llcuda-bins-sm99.tar.gz",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(named))); diff != "" {
		t.Errorf("files that verify names (-want +got):\n%s", diff)
	}
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
