package fetchtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// linkedBLAS is the library of the farm's own in a linked runtime.
const linkedBLAS = "libllcuda-blas.so.12"

// libraries are those of CUDA runtimes: shared libraries with nothing but their names.
var libraries = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "fetchtest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	all := map[string][]byte{}
	m, err := spec.Default()
	if err != nil {
		return nil, err
	}
	names := []string{linkedBLAS}
	for _, k := range m.Toolkits {
		names = append(names, manifests.Toolkit{CUDA: k.CUDA}.CUDALibraries()...)
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		cmd := exec.Command("gcc", "-shared", "-nostdlib", "-s", "-Wl,--build-id=none", "-Wl,-soname,"+name, "-o", path, "-x", "c", "-")
		cmd.Stdin = strings.NewReader("int answer(void) { return 42; }\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("gcc: %w\n%s", err, out)
		}
		if all[name], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return all, nil
})

// targetOf is what the matrix says of a row, and its toolkit. What it does not have is of the first toolkit.
func targetOf(t testing.TB, row matrix.Row) (matrix.Target, matrix.Toolkit) {
	t.Helper()
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	target := matrix.Target{SM: row.SM, PTX: row.PTX, Toolkit: m.Toolkits[0].Name}
	if i := slices.IndexFunc(m.Targets, func(t matrix.Target) bool { return t.Row() == row }); i >= 0 {
		target = m.Targets[i]
	}
	compiler, _ := m.ToolkitOf(target)
	return target, compiler
}

// runtimes are the CUDA runtimes of the bundles: for each SM major and for PTX where the farm links one, else one for each
// toolkit.
func (r *Release) runtimes(t testing.TB, o Options) []manifests.Artifact {
	t.Helper()
	var assets []manifests.Artifact
	var made []matrix.Runtime
	for _, row := range o.rows() {
		_, compiler := targetOf(t, row)
		runtime := compiler.Runtime(row)
		if !o.Linked {
			runtime = matrix.Runtime{Toolkit: compiler.Name}
		}
		if slices.Contains(made, runtime) {
			continue
		}
		made = append(made, runtime)
		if runtime.IsLinked() {
			assets = append(assets, r.linkedRuntime(t, o, compiler, runtime)...)
		} else {
			assets = append(assets, r.wholeRuntime(t, o, compiler)...)
		}
	}
	return assets
}

func (r *Release) wholeRuntime(t testing.TB, o Options, compiler matrix.Toolkit) []manifests.Artifact {
	t.Helper()
	all, err := libraries()
	if err != nil {
		t.Fatal(err)
	}
	code := manifests.DeviceCode{Cubin: []matrix.Code{}, PTX: []matrix.Code{{SM: 80}}}
	for _, sm := range []matrix.SM{50, 60, 70, 80, 90, 100, 120} {
		code.Cubin = append(code.Cubin, matrix.Code{SM: sm})
	}
	var entries []Entry
	for _, name := range (manifests.Toolkit{CUDA: compiler.CUDA}).CUDALibraries() {
		entries = append(entries, Entry{Name: "lib/" + name, Mode: 0o755, Body: all[name]})
	}
	return r.packRuntime(t, o, compiler, code, entries)
}

func (r *Release) linkedRuntime(t testing.TB, o Options, compiler matrix.Toolkit, runtime matrix.Runtime) []manifests.Artifact {
	t.Helper()
	all, err := libraries()
	if err != nil {
		t.Fatal(err)
	}
	code := manifests.DeviceCode{Cubin: []matrix.Code{{SM: matrix.SM(10 * runtime.Major)}}, PTX: []matrix.Code{}}
	if runtime.PTX != 0 {
		code = manifests.DeviceCode{Cubin: []matrix.Code{}, PTX: []matrix.Code{{SM: runtime.PTX}}}
	}
	return r.packRuntime(t, o, compiler, code, []Entry{
		{Name: "lib/libcublas.so.12", Link: linkedBLAS},
		{Name: "lib/libcudart.so.12", Mode: 0o755, Body: all["libcudart.so.12"]},
		{Name: "lib/" + linkedBLAS, Mode: 0o755, Body: all[linkedBLAS]},
	})
}

// packRuntime packs a CUDA runtime's libraries, with what every runtime has.
func (r *Release) packRuntime(t testing.TB, o Options, compiler matrix.Toolkit, code manifests.DeviceCode, entries []Entry) []manifests.Artifact {
	t.Helper()
	toolkit := manifests.Toolkit{CUDA: compiler.CUDA, NVCC: compiler.NVCC}
	top := manifests.RuntimeTop(manifests.RuntimeOf(toolkit.CUDA, code))
	entries = append(entries, Entry{Name: "LICENSE", Mode: 0o644, Body: []byte("NVIDIA\n" + o.Runtime)})
	entries = append(entries, Entry{Name: manifests.MetadataName, Mode: 0o644, Body: []byte(`{"schema_version": 1, "name": "` + top + `"}` + "\n")})
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	listed := files(entries)
	entries = below(top, entries)
	if o.EditRuntime != nil {
		entries = o.EditRuntime(entries)
	}
	return r.pack(t, top, Arrange(top, entries), manifests.Artifact{Kind: manifests.KindCUDART, Toolkit: &toolkit, DeviceCode: &code, Libraries: listed})
}
