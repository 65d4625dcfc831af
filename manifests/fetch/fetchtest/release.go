// Package fetchtest makes releases for the client's tests: real archives, a real manifest, SHA256SUMS and a signature
// over it by a key of the test's own; release pointers by the same key.
//
// The tests of store, fetch, fetchcli and llcuda-fetch call it. The input is what the release is to have; the output is
// a folder that any web server can serve. The programs in its bundles are shell scripts that answer what llama.cpp's
// answer; the libraries are small shared libraries that gcc made. Attacks are edits made to the folder afterward.
package fetchtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Options say what a release has. The zero value is one bundle for sm75.
type Options struct {
	Tag    string      // "v1.1.0-runtime" if empty
	SMs    []matrix.SM // each a bundle of machine code, as the matrix has it: of its toolkit
	PTX    []matrix.SM // each a bundle of PTX
	Epoch  int64
	Models []matrix.Model
	// Programs replace the scripts of the same name.
	Programs map[string]string
	// Runtime tells one CUDA runtime from another.
	Runtime string
	// Linked has a runtime for each SM major and for PTX as the matrix links them, with a library of the farm's own that
	// NVIDIA's name leads to, instead of one of NVIDIA's libraries for all SMs of a toolkit.
	Linked bool
	// CPU has each bundle contain CPU variants, by their names: a score, and what the shell does to compute on them. The
	// best score is picked, as llama.cpp does; one of 0 the CPU cannot run. "7 kill -ILL $$" is one that crashes.
	CPU map[string]string
	// Padding is added to each bundle, in bytes that do not compress.
	Padding int
	// Edit changes what is packed, after metadata.json was derived.
	Edit func([]Entry) []Entry
	// EditRuntime does so with the CUDA runtime.
	EditRuntime func([]Entry) []Entry
	// Client is what the archive of llcuda-fetch for this system holds. Without any, the release has no client.
	Client []Entry
}

// A Release is a folder with a release in it.
type Release struct {
	Dir      string
	Manifest manifests.Release
	key      *ecdsa.PrivateKey
}

// server is llama-server: what it prints of itself, and the GPU if the CUDA libraries are there.
const server = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
case "$1" in
--version) echo "version: 0.5.0 (de3ff81)"; echo "built with a test" ;;
--list-devices)
	echo "Available devices:"
	if [ -e "$here/../../lib/libcublas.so.12" ] || [ -e "$here/../../lib/libcublas.so.13" ]; then echo "  CUDA0: Tesla T4 (15360 MiB, 15000 MiB free)"; else echo "  (none)"; fi ;;
*)
	echo "arguments: $*"
	echo "LD_LIBRARY_PATH=$LD_LIBRARY_PATH"
	echo "CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-unset}" ;;
esac
`

// bench is llama-bench on CPU variants that are shell scripts.
const bench = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
best=0
for file in "$here"/libggml-cpu-*.so; do
	[ -e "$file" ] && read -r score compute < "$file" || continue
	if [ "$score" -gt "$best" ]; then best=$score picked=$file run=$compute; fi
done
[ "$best" -gt 0 ] || { echo "llama_bench: error: CPU backend is not loaded"; exit 1; }
[ "$run" = early ] && kill -SEGV $$
echo "load_backend: loaded CPU backend from $picked"
[ "$1" != -m ] || [ "$(head -c 4 "$2")" = GGUF ] || exit 9
eval "$run"
`

// New makes a release in a folder of the test's own.
func New(t testing.TB, o Options) *Release {
	t.Helper()
	if o.Tag == "" {
		o.Tag = "v1.1.0-runtime"
	}
	if len(o.SMs)+len(o.PTX) == 0 {
		o.SMs = []matrix.SM{75}
	}
	if o.Epoch == 0 {
		o.Epoch = 1790553600
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &Release{Dir: t.TempDir(), key: key}
	var assets []manifests.Artifact
	for _, row := range o.rows() {
		assets = append(assets, r.bundle(t, o, row)...)
	}
	assets = append(assets, r.runtimes(t, o)...)
	if len(o.Client) > 0 {
		a := manifests.Artifact{Name: manifests.ClientName(runtime.GOOS, runtime.GOARCH), Kind: manifests.KindClient}
		packed := Compress(t, Tar(t, o.Client), manifests.FormatTarGz)
		a.URL, a.Size, a.SHA256 = a.Name, int64(len(packed)), SHA256(packed)
		r.write(t, a.Name, packed)
		assets = append(assets, a)
	}
	release, err := manifests.New(o.Tag, assets, o.Models)
	if err != nil {
		t.Fatal(err)
	}
	r.Manifest = release
	r.Finish(t)
	return r
}

// rows are the rows of the matrix that the release has bundles of.
func (o Options) rows() []matrix.Row {
	var rows []matrix.Row
	for _, sm := range o.SMs {
		rows = append(rows, matrix.Row{SM: sm})
	}
	for _, sm := range o.PTX {
		rows = append(rows, matrix.Row{SM: sm, PTX: true})
	}
	return rows
}

var llamaCPP = manifests.LlamaCPP{Version: "0.5.0", Commit: "de3ff81000000000000000000000000000000000", Build: 1}

func (r *Release) bundle(t testing.TB, o Options, row matrix.Row) []manifests.Artifact {
	t.Helper()
	name := manifests.BundleName(row)
	target, compiler := targetOf(t, row)
	toolkit := manifests.Toolkit{CUDA: compiler.CUDA, NVCC: compiler.NVCC}
	code := manifests.DeviceCode{Cubin: []matrix.Code{target.Code()}, PTX: []matrix.Code{}}
	requires := manifests.Requires{DriverMin: manifests.DriverMin{Cubin: compiler.DriverCubin}, Glibc: "2.17", CPUVariants: []string{"x64"}}
	for _, library := range append(toolkit.CUDALibraries(), "libcuda.so.1") {
		if !strings.HasPrefix(library, "libcublasLt") { // only cuBLAS itself needs that
			requires.Libraries = append(requires.Libraries, library)
		}
	}
	slices.Sort(requires.Libraries)
	if row.PTX {
		code.Cubin, code.PTX = code.PTX, code.Cubin
		requires.DriverMin = manifests.DriverMin{PTX: compiler.DriverPTX}
	}
	programs := toolkit.ProgramsDir() + "/"
	entries := []Entry{
		{Name: "LICENSE", Mode: 0o644, Body: []byte("MIT\n")},
		{Name: programs + "libggml-cuda.so", Link: "../../lib/libggml-cuda.so"},
	}
	for _, program := range []string{"llama-server", "llama-cli", "llama-bench", "llama-quantize"} {
		script := server
		if program == "llama-bench" && o.CPU != nil {
			script = bench
		}
		if o.Programs[program] != "" {
			script = o.Programs[program]
		}
		entries = append(entries, Entry{Name: programs + program, Mode: 0o755, Body: []byte(script)})
	}
	if o.CPU != nil {
		requires.CPUVariants = slices.Sorted(maps.Keys(o.CPU))
	}
	for variant, compute := range o.CPU {
		name := "libggml-cpu-" + variant + ".so"
		entries = append(entries, Entry{Name: "lib/" + name, Mode: 0o755, Body: []byte(compute + "\n")},
			Entry{Name: programs + name, Link: "../../lib/" + name})
	}
	padding := make([]byte, o.Padding)
	_, _ = rand.Read(padding)
	entries = append(entries,
		Entry{Name: "lib/libggml-cuda.so", Mode: 0o755, Body: append([]byte("device code for "+row.String()+" of "+o.Tag), padding...)},
		Entry{Name: "lib/libllama.so", Link: "libllama.so.0"},
		Entry{Name: "lib/libllama.so.0", Mode: 0o755, Body: []byte("llama")})
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	meta := manifests.Metadata{
		SchemaVersion: manifests.SchemaVersion, Name: name, Release: o.Tag, LlamaCPP: llamaCPP, Row: row,
		Architecture: row.SM.Architecture(), GPUs: []string{"Some GPU"}, Toolkit: toolkit, DeviceCode: code, Requires: requires,
		Files: files(entries),
		Build: manifests.Build{BuilderImage: "sha256:b", HostImage: "sha256:c", BaseImage: "sha256:a", HostCMake: []string{}, CUDACMake: []string{}, SourceDateEpoch: o.Epoch, Engine: "test"},
	}
	data, err := meta.Encode()
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, Entry{Name: manifests.MetadataName, Mode: 0o644, Body: data})
	entries = below(name, entries)
	if o.Edit != nil {
		entries = o.Edit(entries)
	}
	return r.pack(t, name, Arrange(name, entries), manifests.Artifact{
		Kind: manifests.KindBundle, Release: o.Tag, SourceDateEpoch: o.Epoch, LlamaCPP: &llamaCPP, Toolkit: &toolkit, Row: row,
		Architecture: row.SM.Architecture(), GPUs: meta.GPUs, DeviceCode: &code, Requires: &requires,
	})
}

// files describes entries as metadata.json does.
func files(entries []Entry) []manifests.File {
	var list []manifests.File
	for _, e := range entries {
		if e.Link != "" {
			list = append(list, manifests.File{Path: e.Name, Mode: "0777", Link: e.Link})
			continue
		}
		list = append(list, manifests.File{Path: e.Name, Size: int64(len(e.Body)), Mode: fmt.Sprintf("%04o", e.Mode), SHA256: SHA256(e.Body)})
	}
	return list
}

func below(top string, entries []Entry) []Entry {
	for i := range entries {
		entries[i].Name = top + "/" + entries[i].Name
	}
	return entries
}

// pack writes an archive in both formats and describes the two. A runtime's name gets its digest.
func (r *Release) pack(t testing.TB, stem string, entries []Entry, a manifests.Artifact) []manifests.Artifact {
	t.Helper()
	data := Tar(t, entries)
	if a.Kind == manifests.KindCUDART {
		stem += "-" + SHA256(data)[:12]
	}
	var twins []manifests.Artifact
	for _, format := range manifests.Formats() {
		packed := Compress(t, data, format)
		a.Name, a.Format = stem+"."+format, format
		a.URL, a.Size, a.SHA256 = a.Name, int64(len(packed)), SHA256(packed)
		a.Tar = &manifests.Digest{SHA256: SHA256(data), Size: int64(len(data))}
		r.write(t, a.Name, packed)
		twins = append(twins, a)
	}
	return twins
}

func (r *Release) write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Finish writes manifest.json, SHA256SUMS over what the folder has, and the signature.
func (r *Release) Finish(t testing.TB) {
	t.Helper()
	data, err := manifests.Encode(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, manifests.ManifestName, data)
	r.Sum(t)
	r.Sign(t)
}

// Sum writes SHA256SUMS over what the folder has.
func (r *Release) Sum(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var sums manifests.Sums
	for _, entry := range entries {
		if name := entry.Name(); name != manifests.SumsName && name != manifests.SignatureName {
			sums = append(sums, manifests.Sum{Name: name, SHA256: SHA256(r.Read(t, name))})
		}
	}
	r.write(t, manifests.SumsName, sums.Encode())
}

// Read is a file of the release.
func (r *Release) Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(r.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Sign writes the Sigstore bundle over SHA256SUMS, by the release's key:
// https://docs.sigstore.dev/about/bundle/
func (r *Release) Sign(t testing.TB) {
	t.Helper()
	digest := sha256.Sum256(r.Read(t, manifests.SumsName))
	r.write(t, manifests.SignatureName, r.bundleOf(t, "messageSignature", map[string]any{
		"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": digest[:]},
		"signature":     r.sign(t, digest),
	}))
}

func (r *Release) sign(t testing.TB, digest [sha256.Size]byte) []byte {
	t.Helper()
	signature, err := ecdsa.SignASN1(rand.Reader, r.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func (r *Release) bundleOf(t testing.TB, kind string, content any) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"mediaType":            "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "test"}},
		kind:                   content,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// SignStatement gives the Sigstore bundle with a statement in a DSSE envelope, by the release's key:
// https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
func (r *Release) SignStatement(t testing.TB, statement []byte) []byte {
	t.Helper()
	const payloadType = "application/vnd.in-toto+json"
	digest := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(statement), statement))
	return r.bundleOf(t, "dsseEnvelope", map[string]any{
		"payload": statement, "payloadType": payloadType, "signatures": []any{map[string]any{"sig": r.sign(t, digest)}},
	})
}

// Pointer is a release pointer of a number that names the release, for a month from now. Its fields may be changed before
// it is signed.
func (r *Release) Pointer(t testing.TB, number int64) manifests.Pointer {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	return manifests.Pointer{Release: r.Manifest.Release, Manifest: SHA256(r.Read(t, manifests.ManifestName)), Number: number, Issued: now, Expires: now.AddDate(0, 1, 0)}
}

// SignPointer gives a signed release pointer.
func (r *Release) SignPointer(t testing.TB, p manifests.Pointer) []byte {
	t.Helper()
	statement, err := manifests.EncodePointer(p)
	if err != nil {
		t.Fatal(err)
	}
	return r.SignStatement(t, statement)
}

// SignWith makes another release's key that of this one.
func (r *Release) SignWith(t testing.TB, other *Release) {
	t.Helper()
	r.key = other.key
	r.Sign(t)
}

// PublicKey is the key that verifies the signature, in PEM.
func (r *Release) PublicKey(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&r.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// Asset returns the manifest's entry for an asset.
func (r *Release) Asset(t testing.TB, name string) manifests.Artifact {
	t.Helper()
	asset, ok := r.Manifest.Asset(name)
	if !ok {
		t.Fatalf("the release has no %s", name)
	}
	return asset
}

// SHA256 is a digest in hex.
func SHA256(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
