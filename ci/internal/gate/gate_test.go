package gate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/gate"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// bench is llama-bench on a GPU. FAULT is what goes wrong, and SPEED a factor for the bundle whose metadata.json has the
// release v2.
const bench = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
[ -e "$here/../../lib/libcublas.so.12" ] && gpu="NVIDIA T4" backends=RPC,CUDA || backends=CPU
[ "$FAULT" = cpu ] && gpu=
size=1000 prompt=512 samples="1, 1, 1" speed=100
if grep -q '"release": "v2"' "$here/../../metadata.json"; then
	speed=${SPEED-100}
	[ "$FAULT" = other-model ] && size=1001
	[ "$FAULT" = other-gpu ] && gpu="NVIDIA A100"
fi
case $FAULT in
crash) kill -ABRT $$ ;;
fails) echo "error: no such model" >&2; exit 1 ;;
text) echo "warning: something"; exit ;;
other-test) prompt=256 ;;
one-sample) samples=1 ;;
no-speed) speed=0 ;;
esac
[ "$(env | grep -c '^GGML_')" = 0 ] || exit 9
echo "$*" >> "$LOG"
run() { echo "{\"build_commit\": \"x\", \"gpu_info\": \"$gpu\", \"backends\": \"$backends\", \"model_type\": \"tiny\", \"model_size\": $size, \"n_prompt\": $1, \"n_gen\": $2, \"avg_ts\": $speed, \"samples_ts\": [ $samples ]}"; }
echo "["; run "$prompt" 0; [ "$FAULT" = one-test ] || { echo ,; run 0 128; }; echo "]"
`

// released is a release in a folder, with bench as its llama-bench.
func released(t *testing.T, tag string) *fetchtest.Release {
	t.Helper()
	return fetchtest.New(t, fetchtest.Options{Tag: tag, SMs: []matrix.SM{75, 89}, Programs: map[string]string{"llama-bench": bench}})
}

func open(t *testing.T, file string, o gate.OpenOptions) *gate.Bundle {
	t.Helper()
	b, err := gate.Open(t.Context(), t.TempDir(), file, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func model(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte("GGUF"), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestBench(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	t.Setenv("LOG", log)
	t.Setenv("SPEED", "94")
	t.Setenv("GGML_CUDA_ENABLE_UNIFIED_MEMORY", "1")
	before, after := released(t, "v1"), released(t, "v2")
	bundles := []*gate.Bundle{
		open(t, filepath.Join(before.Dir, "llcuda-bins-sm75.tar.zst"), gate.OpenOptions{}),
		open(t, filepath.Join(after.Dir, "llcuda-bins-sm75.tar.gz"), gate.OpenOptions{}),
	}
	models := []string{model(t, "a.gguf"), model(t, "b with a blank.gguf")}
	var turns []string
	got, err := gate.Bench(t.Context(), bundles, gate.BenchOptions{Models: models, Rounds: 2, Repetitions: 3}, func(turn gate.Turn) {
		turns = append(turns, fmt.Sprintf("%d %d %s", turn.Round, turn.Bundle, turn.Model))
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1 0 a.gguf", "1 0 b with a blank.gguf", "1 1 a.gguf", "1 1 b with a blank.gguf", "2 0 a.gguf", "2 0 b with a blank.gguf", "2 1 a.gguf", "2 1 b with a blank.gguf"}, turns); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if want := "-o json -m " + models[0] + " -p 512 -n 128 -r 3 -ngl 99\n"; strings.Count(string(text), want) != 4 {
		t.Errorf("llama-bench was run with\n%s", text)
	}
	hundred := manifests.Spread{Median: 100, Min: 100, Max: 100}
	less, ratio := manifests.Spread{Median: 94, Min: 94, Max: 94}, manifests.Spread{Median: 0.94, Min: 0.94, Max: 0.94}
	speeds := []manifests.BenchmarkSpeed{{TokensPerSecond: hundred}, {TokensPerSecond: less, Ratio: &ratio}}
	var tests []manifests.BenchmarkTest
	for _, name := range []string{"a.gguf", "b with a blank.gguf"} {
		tests = append(tests, manifests.BenchmarkTest{Model: name, Test: "pp512", Speeds: speeds}, manifests.BenchmarkTest{Model: name, Test: "tg128", Speeds: speeds})
	}
	if diff := cmp.Diff(tests, got.Tests); diff != "" {
		t.Errorf("tests (-want +got):\n%s", diff)
	}
	if got.GPU != "NVIDIA T4" || got.Models[0].Type != "tiny" || got.Bundles[1].Release != "v2" {
		t.Errorf("it says %+v", got)
	}
	encoded, err := manifests.EncodeBenchmark(got)
	if err != nil {
		t.Fatal(err)
	}
	read, err := manifests.DecodeBenchmark(strings.NewReader(string(encoded)))
	if diff := cmp.Diff(got, read); err != nil || diff != "" {
		t.Errorf("read again: %v\n%s", err, diff)
	}
	if err := read.CheckOf(after.Manifest); err != nil {
		t.Errorf("of its own release: %v", err)
	}
	if err := read.CheckOf(before.Manifest); err == nil {
		t.Error("it is taken for one of the release before")
	}
	for least, want := range map[float64]bool{0: false, 0.94: false, 0.941: true, 0.95: true} {
		var refused *failure.Refusal
		if err := gate.CheckSpeed(read, least); errors.As(err, &refused) != want {
			t.Errorf("at least %v: %v", least, err)
		} else if want && strings.Count(err.Error(), "v2) has 0.940 times the speed of llcuda-bins-sm75.tar.zst (v1)") != 4 {
			t.Errorf("at least %v: %v", least, err)
		}
	}
}

// What is not a measurement of the same on a GPU is refused, whatever its figures.
func TestBenchRefuses(t *testing.T) {
	t.Setenv("LOG", filepath.Join(t.TempDir(), "log"))
	bundles := []*gate.Bundle{
		open(t, filepath.Join(released(t, "v1").Dir, "llcuda-bins-sm75.tar.zst"), gate.OpenOptions{}),
		open(t, filepath.Join(released(t, "v2").Dir, "llcuda-bins-sm75.tar.zst"), gate.OpenOptions{}),
	}
	cpu := open(t, filepath.Join(released(t, "v1").Dir, "llcuda-bins-sm75.tar.zst"), gate.OpenOptions{CPU: true})
	for fault, want := range map[string]string{
		"":            "",
		"cpu":         `it used no GPU: its backends are "RPC,CUDA", and its GPUs ""`,
		"crash":       "it was killed by SIGABRT",
		"fails":       "it ended with exit code 1\nerror: no such model",
		"text":        "its output is not JSON",
		"other-test":  `it ran the tests ["" "tg128"] instead of ["pp512" "tg128"]`,
		"one-test":    `it ran the tests ["pp512"] instead of ["pp512" "tg128"]`,
		"one-sample":  "100 tokens per second in 1 repetitions, want 3",
		"no-speed":    "0 tokens per second in 3 repetitions, want 3",
		"other-model": "model_size is 1001 instead of 1000",
		"other-gpu":   "gpu_info is NVIDIA A100 instead of NVIDIA T4",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Setenv("FAULT", fault)
			o := gate.BenchOptions{Models: []string{model(t, "a.gguf")}, Rounds: 1, Repetitions: 3}
			_, err := gate.Bench(t.Context(), bundles, o, func(gate.Turn) {})
			var refused *failure.Refusal
			if want == "" && err != nil || want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), want)) {
				t.Errorf("it says %v, want %s", err, want)
			}
		})
	}
	o := gate.BenchOptions{Models: []string{model(t, "a.gguf")}, Rounds: 1, Repetitions: 3}
	if _, err := gate.Bench(t.Context(), []*gate.Bundle{cpu}, o, func(gate.Turn) {}); err == nil || !strings.Contains(err.Error(), `its backends are "CPU"`) {
		t.Errorf("without CUDA libraries: %v", err)
	}
	o.CPU = true
	if got, err := gate.Bench(t.Context(), []*gate.Bundle{cpu}, o, func(gate.Turn) {}); err != nil || got.GPU != "" {
		t.Errorf("with --cpu: %q, %v", got.GPU, err)
	}
}

func TestOpen(t *testing.T) {
	r := released(t, "v1")
	at := func(name string) string { return filepath.Join(r.Dir, name) }
	runtime := at(r.Manifest.Runtimes()[0].Name)
	alone := filepath.Join(t.TempDir(), "llcuda-bins-sm75.tar.zst")
	data, err := os.ReadFile(at("llcuda-bins-sm75.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "llcuda-bins-sm89.tar.zst")
	damaged := filepath.Join(t.TempDir(), "llcuda-bins-sm75.tar.zst")
	foreign := filepath.Join(released(t, "v2").Dir, "llcuda-bins-sm75.tar.zst")
	noRuntime := released(t, "v3")
	for _, a := range noRuntime.Manifest.Of(manifests.KindCUDART) {
		if err := os.Remove(filepath.Join(noRuntime.Dir, a.Name)); err != nil {
			t.Fatal(err)
		}
	}
	cut := data[:len(data)-7]
	for file, data := range map[string][]byte{alone: data, other: data, damaged: cut, foreign: data} {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		file    string
		o       gate.OpenOptions
		problem string
		refused bool // or else the input is wrong
	}{
		"runtime beside it":      {file: at("llcuda-bins-sm75.tar.zst")},
		"gzip":                   {file: at("llcuda-bins-sm89.tar.gz")},
		"runtime given":          {file: alone, o: gate.OpenOptions{Runtime: runtime}},
		"CPU":                    {file: alone, o: gate.OpenOptions{CPU: true}},
		"no manifest":            {file: alone, problem: "looking for the CUDA runtime"},
		"no runtime":             {file: filepath.Join(noRuntime.Dir, "llcuda-bins-sm75.tar.zst"), problem: "it is not beside it"},
		"a bundle for a runtime": {file: alone, o: gate.OpenOptions{Runtime: alone}, problem: "its name is not that of a cudart"},
		"a runtime":              {file: runtime, problem: "its name is not that of a bundle"},
		"missing":                {file: at("llcuda-bins-sm50.tar.zst"), problem: "no such file"},
		"renamed":                {file: other, problem: "unpacking", refused: true},
		"cut off":                {file: damaged, problem: "unpacking", refused: true},
		"of another release":     {file: foreign, problem: "the manifest.json beside it is of another bundle", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gate.Open(t.Context(), t.TempDir(), test.file, test.o)
			var input *failure.InputError
			var refused *failure.Refusal
			switch {
			case test.problem == "" && err != nil, test.problem != "" && (err == nil || !strings.Contains(err.Error(), test.problem)):
				t.Errorf("it says %v, want %s", err, test.problem)
			case err != nil && (errors.As(err, &refused) != test.refused || errors.As(err, &input) == test.refused):
				t.Errorf("%T: refused: %v", err, test.refused)
			}
		})
	}
}

// ops is test-backend-ops on a GPU, of ADD, which has three cases, and of what no model runs without. The fused SOFTCAP is
// not in its list. FAULT is what goes wrong.
const ops = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
[ -e "$here/../../lib/libcublas.so.12" ] && device=CUDA0 backend=CUDA || device=CPU backend=CPU
names="ADD ADD ADD CONT CPY FLASH_ATTN_EXT GET_ROWS MUL MUL_MAT MUL_MAT_ID RMS_NORM ROPE SET_ROWS SOFT_MAX WKV"
ok=$(printf '\033[1;32mOK\033[0m') bad=$(printf '\033[1;31mFAIL\033[0m')
if [ "$1" = support ]; then
	echo '"backend_name","op_name","op_params","test_mode","supported","error_message","backend_reg_name"'
	[ "$FAULT" = no-gpu ] && exit
	for name in $names; do
		supported=1; [ "$name" = WKV ] && supported=0
		echo "\"$device\",\"$name\",\"type=f32\",\"support\",\"$supported\",\"\",\"$backend\""
	done
	exit
fi
echo "Testing 2 devices"; echo; echo "Backend 1/2: $device"; echo "  Device description: Tesla T4"; echo
patterns=$(echo "$3" | tr , '|')
pass=0 total=0 failing= code=0
for name in $names SOFTCAP; do
	echo "$name" | grep -Eq "$patterns" || continue
	case $FAULT:$name in
	*:WKV | unsupported:MUL_MAT) echo "  $name(type=f32): not supported [$device] "; continue ;;
	silent:ADD) continue ;;
	crash:ADD) echo "CUDA error: an illegal memory access" >&2; kill -ABRT $$ ;;
	slow:ADD) sleep 60 ;;
	fails:ADD | fails:SOFTCAP) total=$((total + 1)) failing="$failing  $name(type=f32)
"; echo "[$name] ERR = 1.0 > 0.1   $name(type=f32): $bad"; continue ;;
	esac
	total=$((total + 1)) pass=$((pass + 1)); echo "  $name(type=f32): $ok"
done
echo "  $pass/$total tests passed"
if [ -n "$failing" ]; then
	printf '\nFailing tests:\n%s' "$failing"; echo "  Backend $device: $bad"; echo "1/2 backends passed"; echo "$bad"
	[ "$FAULT" = fails ] && exit 1
fi
echo "  Backend $device: $ok"; echo "2/2 backends passed"; echo "$ok"
[ "$FAULT" != exits ]
`

func TestCheckOps(t *testing.T) {
	r := released(t, "v1")
	program := filepath.Join(t.TempDir(), "ops")
	if err := os.WriteFile(program, []byte(ops), 0o644); err != nil { // as an artifact of a workflow loses its mode
		t.Fatal(err)
	}
	file := filepath.Join(r.Dir, "llcuda-bins-sm89.tar.zst")
	pattern := "test-backend-ops -o ^"
	for fault, test := range map[string]struct {
		passed, total int
		failures      []string // beginnings
	}{
		"":            {passed: 15, total: 15},
		"fails":       {passed: 11, total: 15, failures: []string{"ADD(type=f32): [ADD] ERR = 1.0 > 0.1", "ADD(type=f32): [ADD] ERR = 1.0 > 0.1", "ADD(type=f32): [ADD] ERR = 1.0 > 0.1", "SOFTCAP(type=f32): [SOFTCAP] ERR = 1.0 > 0.1", "ADD: no case of it was computed"}},
		"silent":      {passed: 12, total: 12, failures: []string{"ADD: 0 cases were reported, and there are 3", "ADD: no case of it was computed"}},
		"unsupported": {passed: 14, total: 14, failures: []string{"MUL_MAT: no case of it was computed"}},
		"crash":       {failures: []string{pattern + ": it was killed by SIGABRT (aborted); it did not run to its end on the device CUDA0\nCUDA error"}},
		"slow":        {failures: []string{pattern + ": it did not end within"}},
		"exits":       {passed: 15, total: 15, failures: []string{pattern + ": it ended with exit code 1\n"}},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Setenv("FAULT", fault)
			limit := time.Minute
			if fault == "slow" {
				limit = 2 * time.Second
			}
			got, err := gate.CheckOps(t.Context(), open(t, file, gate.OpenOptions{}), program, gate.OpsOptions{Jobs: 2, Limit: limit}, func(int, int) {})
			if err != nil {
				t.Fatal(err)
			}
			if got.Passed != test.passed || got.Total != test.total {
				t.Errorf("%d of %d, want %d of %d", got.Passed, got.Total, test.passed, test.total)
			}
			for i, want := range test.failures {
				if i >= len(got.Failures) || !strings.HasPrefix(got.Failures[i].String(), want) {
					t.Fatalf("the failures are\n%v\nwant\n%v", got.Failures, test.failures)
				}
			}
			var refused *failure.Refusal
			if failed := len(test.failures) > 0; errors.As(got.Err(), &refused) != failed || !failed && len(got.Failures) > 0 {
				t.Errorf("the failures are %v, and the error %v", got.Failures, got.Err())
			}
			if fault == "" {
				want := gate.OpsReport{Device: "Tesla T4", Operations: 13, Passed: 15, Total: 15, Unsupported: []string{"WKV"}}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("report (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// A process that finds no GPU ends well, and so does a list with nothing in it.
func TestCheckOpsWithoutGPU(t *testing.T) {
	t.Setenv("FAULT", "no-gpu")
	r := released(t, "v1")
	program := filepath.Join(t.TempDir(), "ops")
	if err := os.WriteFile(program, []byte(ops), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.Dir, "llcuda-bins-sm75.tar.zst")
	check := func(ctx context.Context, b *gate.Bundle, program string, o gate.OpsOptions) error {
		o.Jobs, o.Limit = 1, time.Minute
		_, err := gate.CheckOps(ctx, b, program, o, func(int, int) {})
		return err
	}
	var refused *failure.Refusal
	if err := check(t.Context(), open(t, file, gate.OpenOptions{}), program, gate.OpsOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "the backend CUDA has no device CUDA0") {
		t.Errorf("no device: %v", err)
	}
	t.Setenv("FAULT", "")
	// The fake lists the CPU where there is no CUDA.
	if err := check(t.Context(), open(t, file, gate.OpenOptions{CPU: true}), program, gate.OpsOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "it listed the device CPU of the backend CPU") {
		t.Errorf("the CPU instead: %v", err)
	}
	if err := check(t.Context(), open(t, file, gate.OpenOptions{CPU: true}), program, gate.OpsOptions{CPU: true}); err != nil {
		t.Errorf("the CPU on purpose: %v", err)
	}
	var input *failure.InputError
	if err := check(t.Context(), open(t, file, gate.OpenOptions{}), filepath.Join(t.TempDir(), "none"), gate.OpsOptions{}); !errors.As(err, &input) {
		t.Errorf("no program: %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := check(ended, open(t, file, gate.OpenOptions{}), program, gate.OpsOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
