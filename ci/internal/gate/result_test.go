package gate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	okMark   = "\x1b[1;32mOK\x1b[0m"
	failMark = "\x1b[1;31mFAIL\x1b[0m"
)

// printed is what test-backend-ops 0.5.0 prints on a machine with a GPU.
const printed = `Testing 2 devices

Backend 1/2: CUDA0
  Device description: NVIDIA H100 80GB HBM3
  Device memory: 81079 MB (80551 MB free)

  ADD(type=f16,ne=[1,1,8,1],nr=[1,1,1,1],nf=1,perm1=0,src_overlap=0): ` + okMark + `
  ADD(type=f32,ne=[16,5,4,3],nr=[1,1,1,1],nf=16,perm1=0,src_overlap=0): ` + okMark + `
  ARGSORT(type=f32,ne=[2048,2,1,3],order=1): not supported [CUDA0] 
  2/2 tests passed
  Backend CUDA0: ` + okMark + `
Backend 2/2: CPU
  Skipping CPU backend
2/2 backends passed
` + okMark + "\n"

// failed is the same with a case that computes something else.
var failed = edit(printed,
	"  ADD(type=f32,ne=[16,5,4,3],nr=[1,1,1,1],nf=16,perm1=0,src_overlap=0): "+okMark, "[ADD] ERR = 0.123456789 > 0.000000100   ADD(type=f32,ne=[16,5,4,3],nr=[1,1,1,1],nf=16,perm1=0,src_overlap=0): "+failMark,
	"  2/2 tests passed\n  Backend CUDA0: "+okMark, "  1/2 tests passed\n\nFailing tests:\n  ADD(type=f32,ne=[16,5,4,3],nr=[1,1,1,1],nf=16,perm1=0,src_overlap=0)\n  Backend CUDA0: "+failMark,
	"2/2 backends passed\n"+okMark, "1/2 backends passed\n"+failMark)

func edit(text string, pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			panic("nothing to edit: " + pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func TestParseResults(t *testing.T) {
	add := "ADD(type=f32,ne=[16,5,4,3],nr=[1,1,1,1],nf=16,perm1=0,src_overlap=0)"
	for name, test := range map[string]struct {
		text          string
		passed, total int
		failed        []string
		detail        string // of add
		problem       string
	}{
		"passed": {text: printed, passed: 2, total: 2},
		"failed": {text: failed, passed: 1, total: 2, failed: []string{add}, detail: "[ADD] ERR = 0.123456789 > 0.000000100"},
		// Of a case whose tensors do not fit it prints no result, and counts it.
		"no memory": {text: edit(failed, "[ADD] ERR = 0.123456789 > 0.000000100   "+add+": "+failMark+"\n", "failed to allocate tensors [CUDA0] "),
			passed: 1, total: 2, failed: []string{add}, detail: "it has no result; if the GPU's memory was too small for so many processes, fewer --jobs help"},
		"nothing": {text: "", problem: "it did not run to its end on the device CUDA0"},
		"no GPU": {text: edit(printed, "Backend 1/2: CUDA0\n  Device description: NVIDIA H100 80GB HBM3", "Backend 1/2: CUDA1\n  Device description: NVIDIA H100 80GB HBM3"), passed: 2, total: 2,
			problem: "it did not run to its end on the device CUDA0; the last case was ARGSORT(type=f32,ne=[2048,2,1,3],order=1)"},
		"CPU instead": {text: "Testing 1 devices\n\nBackend 1/1: CPU\n  Skipping\n1/1 backends passed\n" + okMark + "\n", problem: "it did not run to its end on the device CUDA0"},
		"crashed":     {text: printed[:strings.Index(printed, "  ARGSORT")], problem: "it did not run to its end on the device CUDA0; the last case was " + add},
		"ended in a sum": {text: printed[:strings.Index(printed, "  Backend CUDA0")], passed: 2, total: 2,
			problem: "it did not run to its end on the device CUDA0; the last case was ARGSORT(type=f32,ne=[2048,2,1,3],order=1)"},
		"a case is missing": {text: edit(printed, "  "+add+": "+okMark+"\n", ""), passed: 2, total: 2, problem: "it says 2 of 2, printed 1 that passed, and named 0 that failed"},
		"a case too many":   {text: edit(printed, "  2/2 tests", "  1/1 tests"), passed: 1, total: 1, problem: "it says 1 of 1, printed 2 that passed, and named 0 that failed"},
		"a failure unnamed": {text: edit(printed, "  2/2 tests", "  2/3 tests"), passed: 2, total: 3, problem: "it says 2 of 3, printed 2 that passed, and named 0 that failed"},
		"another named": {text: edit(failed, "Failing tests:\n  "+add, "Failing tests:\n  SUB()"), passed: 1, total: 2, failed: []string{"SUB()"},
			detail: "[ADD] ERR = 0.123456789 > 0.000000100", problem: "a case that failed is not among those that it names"},
		"the device is well": {text: edit(failed, "  Backend CUDA0: "+failMark, "  Backend CUDA0: "+okMark), passed: 1, total: 2, failed: []string{add},
			detail: "[ADD] ERR = 0.123456789 > 0.000000100", problem: "its verdict is OK, and 1 cases failed"},
		"the device is not": {text: edit(printed, "  Backend CUDA0: "+okMark, "  Backend CUDA0: "+failMark), passed: 2, total: 2, problem: "its verdict is FAIL, and 0 cases failed"},
		"all are well": {text: edit(failed, "1/2 backends passed", "2/2 backends passed"), passed: 1, total: 2, failed: []string{add},
			detail: "[ADD] ERR = 0.123456789 > 0.000000100", problem: "it says 2/2 backends passed, and 1 cases failed"},
		"twice": {text: printed + printed, passed: 2, total: 2, problem: "it did not run to its end on the device CUDA0; the last case was ARGSORT(type=f32,ne=[2048,2,1,3],order=1)"},
	} {
		t.Run(name, func(t *testing.T) {
			got := parseResults(test.text, cudaDevice)
			detail := ""
			if len(got.failed) > 0 {
				detail = got.detail(add)
			}
			if got.passed != test.passed || got.total != test.total || got.problem != test.problem || detail != test.detail {
				t.Errorf("%d of %d, detail %q, problem %q; want %d of %d, %q, %q", got.passed, got.total, detail, got.problem, test.passed, test.total, test.detail, test.problem)
			}
			if diff := cmp.Diff(test.failed, got.failed); diff != "" {
				t.Errorf("failed (-want +got):\n%s", diff)
			}
		})
	}
}

const listHeader = `"backend_name","op_name","op_params","test_mode","supported","error_message","backend_reg_name"` + "\n"

func TestParseList(t *testing.T) {
	good := listHeader + `"CUDA0","ADD","type=f16,ne=[1,1],v=""0""","support","1","yes","CUDA"
"CUDA0","ADD","type=f32","support","1","yes","CUDA"
"CUDA0","ARGSORT","type=f32","support","0","no","CUDA"
`
	for name, test := range map[string]struct {
		text, problem string
	}{
		"good":              {text: good},
		"another backend":   {text: edit(good, `"yes","CUDA"`, `"yes","ROCm"`), problem: "it listed the device CUDA0 of the backend ROCm"},
		"another device":    {text: edit(good, `"CUDA0","ADD"`, `"CPU","ADD"`), problem: "it listed the device CPU of the backend CUDA"},
		"no device":         {text: listHeader, problem: "the backend CUDA has no device CUDA0, or supports none of 0 cases"},
		"nothing supported": {text: listHeader + `"CUDA0","ADD","","support","0","no","CUDA"` + "\n", problem: "the backend CUDA has no device CUDA0, or supports none of 1 cases"},
		"nothing":           {text: "", problem: "its list cannot be read: EOF"},
		"no column":         {text: edit(good, `"supported"`, `"passed"`), problem: "its list has no column supported"},
		"a name with more":  {text: edit(good, `"ARGSORT"`, `"ARG.*"`), problem: `it listed an operation named "ARG.*"`},
		"cut off":           {text: strings.TrimSuffix(good, "\"no\",\"CUDA\"\n"), problem: "its list cannot be read: record on line 4: wrong number of fields"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseList(test.text, cudaBackend, cudaDevice)
			problem := ""
			if err != nil {
				problem = err.Error()
			}
			if problem != test.problem {
				t.Errorf("it says %q, want %q", problem, test.problem)
			}
			want := map[string]operation{"ADD": {2, 2}, "ARGSORT": {1, 0}}
			if err == nil && !cmp.Equal(want, got, cmp.AllowUnexported(operation{})) {
				t.Errorf("it read %v", got)
			}
		})
	}
}
