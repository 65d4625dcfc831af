package trial

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
)

// fakeVariable makes this test binary llama-server or llama-bench, as far as a trial knows them. What a variant does is in
// its name.
const fakeVariable = "TRIAL_FAKE"

func TestMain(m *testing.M) {
	if program := os.Getenv(fakeVariable); program != "" {
		fake(program, os.Args[1], os.Args[2:])
	}
	os.Exit(m.Run())
}

func fake(program, dir string, args []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "libggml-*.so"))
	behavior := "none"
	if len(files) == 1 {
		behavior = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(files[0]), "libggml-cpu-"), ".so")
	}
	switch {
	case len(args) == 1 && args[0] == "--version":
		os.Exit(0)
	case behavior == "lacking" || behavior == "none":
		fmt.Println("error: CPU backend is not loaded")
		os.Exit(1)
	case behavior == "dies-early":
		die()
	}
	if program == "llama-bench" {
		fmt.Printf("load_backend: loaded CPU backend from %s\n", files[0])
		os.Exit(0)
	}
	serve(behavior, args[1], args[3])
}

// die ends this process by SIGILL: Go's own runtime would catch it.
func die() { _ = syscall.Exec("/bin/sh", []string{"sh", "-c", "kill -ILL $$"}, os.Environ()) }

func serve(behavior, model, socket string) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	prompts := 0
	http.HandleFunc("/completion", func(w http.ResponseWriter, _ *http.Request) {
		prompts++
		off, tokens := 0.0, tinygguf.Tokens
		switch behavior {
		case "rounds":
			off = 0.2
		case "wrong":
			off = 3
		case "wrong-later": // in what a single token takes
			off = 3 * float64(prompts-1)
		case "wrong-q4":
			if strings.HasPrefix(model, "q4") || strings.HasPrefix(model, "all") {
				off = -3
			}
		case "nan":
			off = math.NaN()
		case "short":
			tokens = 7
		case "refuses":
			http.Error(w, "compute error", http.StatusInternalServerError)
			return
		case "garbage":
			fmt.Fprint(w, "ok")
			return
		case "exits":
			os.Exit(3)
		case "ends":
			os.Exit(0)
		case "dies":
			die()
		}
		var list []string
		for id := range tokens {
			text := fmt.Sprint(-float64(id%13) - off*float64(id%2))
			if text == "NaN" {
				text = "null"
			}
			list = append(list, fmt.Sprintf(`{"id":%d,"logprob":%s}`, id, text))
		}
		fmt.Fprintf(w, `{"completion_probabilities":[{"top_logprobs":[%s]}]}`, strings.Join(list, ","))
	})
	panic(http.Serve(listener, nil))
}

// bundle makes a bundle's folder with variants of these names.
func bundle(t *testing.T, names ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	programs, lib := filepath.Join(dir, "binaries", "cuda12"), filepath.Join(dir, "lib")
	for _, folder := range []string{programs, lib} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"llama-server", "llama-bench"} {
		// A script, for the dynamic loader to load the variant into, whatever the test binary is linked with.
		script := fmt.Sprintf("#!/bin/sh\n%s=%s exec '%s' \"$(dirname \"$0\")\" \"$@\"\n", fakeVariable, program, self)
		if err := os.WriteFile(filepath.Join(programs, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		code := "int variant;"
		if name == "unresolved" {
			code = "int missing(void); int variant(void) { return missing(); }"
		}
		cmd := exec.Command("gcc", "-shared", "-fPIC", "-o", filepath.Join(lib, "libggml-cpu-"+name+".so"), "-x", "c", "-")
		cmd.Stdin = strings.NewReader(code)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		if name == "empty" {
			if err := os.WriteFile(filepath.Join(lib, "libggml-cpu-empty.so"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	const everyType = "with matrices of bf16, f16, q4_0, q4_K, q8_0"
	want := map[string]string{
		"x64": "computes; its scores differ by up to 0.000", "same": "computes; its scores differ by up to 0.000",
		"rounds":      "computes; its scores differ by up to 0.200",
		"lacking":     "was not run: this CPU lacks something it needs",
		"wrong":       "fails: it computes something else than x64: the logarithms of the probabilities differ by up to 3.00, and may by 0.50, " + everyType,
		"wrong-later": "differ by up to 3.00",
		"wrong-q4":    "differ by up to 3.00, and may by 0.50, with matrices of q4_0, q4_K",
		"nan":         "fails: its scores are not numbers, " + everyType,
		"short":       "fails: it scored 7 tokens, and the model has 512",
		"refuses":     "fails: it answered 500 Internal Server Error: compute error",
		"garbage":     "fails: its answer is not JSON",
		"exits":       "fails: it ended with exit code 3",
		"ends":        "fails: it ended by itself",
		"dies":        "fails: it was killed by SIGILL (illegal instruction)",
		"dies-early":  "fails: it was killed by SIGILL (illegal instruction)",
		"unresolved":  "fails: it cannot be loaded",
		"empty":       "fails: it cannot be loaded",
	}
	var names, failing []string
	for _, name := range []string{"dies", "dies-early", "empty", "ends", "exits", "garbage", "lacking", "nan", "refuses", "rounds", "same", "short", "unresolved", "wrong", "wrong-later", "wrong-q4", "x64"} {
		names = append(names, name)
		if strings.Contains(want[name], "fails") || strings.Contains(want[name], "may by") || name == "wrong-later" {
			failing = append(failing, name)
		}
	}
	got := map[string]string{}
	report, err := Run(t.Context(), bundle(t, names...), func(r Result) { got[r.Variant] = r.String() })
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.Contains(got[name], "the CPU variant "+name+" ") || !strings.Contains(got[name], want[name]) {
			t.Errorf("%s: said %q, want %q", name, got[name], want[name])
		}
	}
	if report.Results[0].Variant != plainest {
		t.Errorf("the first is %s", report.Results[0].Variant)
	}
	if diff := cmp.Diff([]string{"lacking"}, report.Lacking()); diff != "" {
		t.Error(diff)
	}
	var failed *FailedError
	if !errors.As(report.Err(), &failed) {
		t.Fatalf("%v", report.Err())
	}
	if diff := cmp.Diff(failing, failed.Variants); diff != "" {
		t.Error(diff)
	}
}

// A failing first variant and a bundle without one leave nothing to compare with.
func TestNothingToCompareWith(t *testing.T) {
	if _, err := Run(t.Context(), bundle(t, "haswell"), func(Result) {}); err == nil || !strings.Contains(err.Error(), "none of them is x64") {
		t.Errorf("without x64: %v", err)
	}
	if _, err := Run(t.Context(), t.TempDir(), func(Result) {}); err == nil || !strings.Contains(err.Error(), "in the one folder below binaries") {
		t.Errorf("no bundle: %v", err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	good := bundle(t, "x64", "same")
	report, err := Run(t.Context(), good, func(Result) {})
	if err != nil || report.Err() != nil || len(report.Results) != 2 {
		t.Errorf("%v %v %v", report, err, report.Err())
	}
	if rest, err := filepath.Glob(filepath.Join(os.TempDir(), "llcuda-trial-*")); err != nil || len(rest) > 0 {
		t.Errorf("left behind: %q %v", rest, err)
	}
}
