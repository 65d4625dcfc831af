package bundler_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// An auditCase is a bundle with a change, and what the audit finds in it.
type auditCase struct {
	sm     matrix.SM // 75 where it is 0
	ptx    bool
	fatbin string // sm75.fatbin where it is ""
	rules  func(*bundler.Rules)
	change func(breaker)
	want   []string
	detail string // a part of the findings' text
}

func testAudit(t *testing.T, cases map[string]auditCase) {
	t.Helper()
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sm, fatbin := test.sm, test.fatbin
			if sm == 0 {
				sm = 75
			}
			if fatbin == "" {
				fatbin = "sm75.fatbin"
			}
			dir := newTree(t, fatbin)
			r := rulesOf(matrix.Row{SM: sm, PTX: test.ptx})
			if test.rules != nil {
				test.rules(&r)
			}
			if test.change != nil {
				test.change(breaker{t: t, dir: dir, toolbox: newToolbox(t)})
			}
			report, err := bundler.Audit(open(t, dir), r)
			want := slices.Clone(test.want)
			slices.Sort(want)
			if diff := cmp.Diff(want, findingsIn(t, err)); diff != "" {
				t.Errorf("findings (-want +got):\n%s\n%v", diff, err)
			}
			if report == nil {
				t.Error("no report")
			}
			if err != nil && !strings.Contains(err.Error(), test.detail) {
				t.Errorf("error does not say %q:\n%v", test.detail, err)
			}
		})
	}
}

// A breaker changes a bundle.
type breaker struct {
	t   *testing.T
	dir string
	*toolbox
}

func (b breaker) at(name string) string { return filepath.Join(b.dir, filepath.FromSlash(name)) }

func (b breaker) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// remove removes files.
func remove(names ...string) func(breaker) {
	return func(b breaker) {
		for _, name := range names {
			b.must(os.Remove(b.at(name)))
		}
	}
}

// write writes a file with a mode.
func write(name, text string, mode os.FileMode) func(breaker) {
	return func(b breaker) {
		b.must(os.WriteFile(b.at(name), []byte(text), mode))
		b.must(os.Chmod(b.at(name), mode))
	}
}

// relink makes a link in the place of whatever there is.
func relink(name, target string) func(breaker) {
	return func(b breaker) {
		os.Remove(b.at(name))
		b.link(target, b.at(name))
	}
}

// The files that most cases change.
const cuda, cpu, base, llama, server = "lib/libggml-cuda.so", "lib/libggml-cpu-x64.so", "lib/libggml-base.so.0.5.0", "lib/libllama.so.0.5.0", "binaries/cuda12/llama-server"

// rebuildCUDA compiles the CUDA backend again, with a change.
func rebuildCUDA(fatbin string, change func(breaker, *module)) func(breaker) {
	return func(b breaker) {
		m := b.cudaBackend(b.at(base), fatbin)
		if change != nil {
			change(b, &m)
		}
		b.library(b.at(cuda), m)
	}
}

// rebuildCPU compiles a CPU backend again, with a change.
func rebuildCPU(change func(breaker, *module)) func(breaker) {
	return func(b breaker) {
		m := module{source: "int ggml_base(void); int cpu(void) { return ggml_base(); }", soname: "libggml-cpu-x64.so", runPath: "$ORIGIN:$ORIGIN/../../lib", needs: []string{b.at(base)}}
		change(b, &m)
		b.library(b.at(cpu), m)
	}
}

// rebuildServer compiles llama-server again, with a change.
func rebuildServer(change func(breaker, *module)) func(breaker) {
	return func(b breaker) {
		m := module{source: "int llama(void); int main(void) { return llama(); }", runPath: "$ORIGIN/../../lib", needs: []string{b.at(llama), b.at("lib/libggml.so.0.5.0"), b.at(base)}}
		change(b, &m)
		b.program(b.at(server), m)
	}
}

// holding gives the CUDA backend the name of a kernel.
func holding(name string) func(breaker, *module) {
	return func(_ breaker, m *module) {
		m.source += fmt.Sprintf("\nconst char *kernel(void) { return %q; }\n", name)
	}
}
