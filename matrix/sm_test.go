package matrix_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestParseSM(t *testing.T) {
	for in, want := range map[string]matrix.SM{
		"75": 75, "sm75": 75, "sm_75": 75, "7.5": 75,
		"120": 120, "sm120": 120, "sm_120": 120, "12.0": 120, "9.0": 90,
	} {
		if got, err := matrix.ParseSM(in); err != nil || got != want {
			t.Errorf("ParseSM(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", "all", "7", "5", "7.", ".75", "7.50", "07.5", "075", "+75", "-75", " 75", "75 ", "0x4b", "1000", "sm", "sm_", "sm__75", "sm7.5", "sm_7.5",
		"SM75", "compute_75", "90a", "sm_90a", "sm75,86", "٧٥", "7\x005", "00", "0.0", "99999999999999999999",
	} {
		if got, err := matrix.ParseSM(in); err == nil {
			t.Errorf("ParseSM(%q) = %d, want an error", in, got)
		}
	}
}

func FuzzParseSM(f *testing.F) {
	for _, s := range []string{"75", "sm75", "sm_75", "7.5", "12.0", "sm_90a", "", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sm, err := matrix.ParseSM(s)
		if err != nil {
			return
		}
		if !sm.Valid() {
			t.Errorf("ParseSM(%q) = %d, which is not valid", s, int(sm))
		}
		for _, form := range []string{sm.String(), sm.Capability()} {
			if again, err := matrix.ParseSM(form); err != nil || again != sm {
				t.Errorf("ParseSM(%q) = %d, but its form %q is read as %d, %v", s, int(sm), form, int(again), err)
			}
		}
	})
}

func TestSMForms(t *testing.T) {
	type forms struct {
		String, Capability, Architecture string
		Major, Minor                     int
		JSON                             string
	}
	for sm, want := range map[matrix.SM]forms{
		50:  {"sm50", "5.0", "Maxwell", 5, 0, "50"},
		61:  {"sm61", "6.1", "Pascal", 6, 1, "61"},
		72:  {"sm72", "7.2", "Volta", 7, 2, "72"},
		75:  {"sm75", "7.5", "Turing", 7, 5, "75"},
		87:  {"sm87", "8.7", "Ampere", 8, 7, "87"},
		89:  {"sm89", "8.9", "Ada Lovelace", 8, 9, "89"},
		90:  {"sm90", "9.0", "Hopper", 9, 0, "90"},
		120: {"sm120", "12.0", "Blackwell", 12, 0, "120"},
		130: {"sm130", "13.0", "", 13, 0, "130"},
	} {
		data, err := json.Marshal(sm)
		if err != nil {
			t.Fatal(err)
		}
		got := forms{sm.String(), sm.Capability(), sm.Architecture(), sm.Major(), sm.Minor(), string(data)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d (-want +got):\n%s", int(sm), diff)
		}
	}
}

func TestCodeJSON(t *testing.T) {
	for text, want := range map[string]matrix.Code{"75": {SM: 75}, `"120a"`: {SM: 120, Variant: "a"}, `"100f"`: {SM: 100, Variant: "f"}} {
		var got matrix.Code
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
		if back, err := json.Marshal(want); err != nil || string(back) != text {
			t.Errorf("%v is written as %s, %v, want %s", want, back, err, text)
		}
	}
	for _, text := range []string{`"75"`, `"120b"`, `"a"`, `"sm_120a"`, `"12.0a"`, `"0120a"`, `""`, `{}`, `"120aa"`, `"1200a"`, `7.5`} {
		var got matrix.Code
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s is read as %v, want an error", text, got)
		}
	}
}

func TestRow(t *testing.T) {
	for in, want := range map[string]matrix.Row{"75": {SM: 75}, "sm_90": {SM: 90}, "12.0": {SM: 120}, "ptx90": {SM: 90, PTX: true}, "ptx120": {SM: 120, PTX: true}} {
		if got, err := matrix.ParseRow(in); err != nil || got != want {
			t.Errorf("ParseRow(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "ptx", "ptx9.0", "ptxsm90", "ptx_90", "ptx090", "PTX90", "ptx90a", "90ptx", "ptxptx90"} {
		if got, err := matrix.ParseRow(in); err == nil {
			t.Errorf("ParseRow(%q) = %v, want an error", in, got)
		}
	}
	for text, want := range map[string]matrix.Row{"75": {SM: 75}, `"ptx90"`: {SM: 90, PTX: true}} {
		var got matrix.Row
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
		if back, err := json.Marshal(want); err != nil || string(back) != text {
			t.Errorf("%v is written as %s, %v, want %s", want, back, err, text)
		}
	}
	for _, text := range []string{`"75"`, `"sm75"`, `"ptx"`, `"ptx9.0"`, `""`, `{}`, `7.5`} {
		var got matrix.Row
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s is read as %v, want an error", text, got)
		}
	}
	rows := []matrix.Row{{SM: 120}, {SM: 90, PTX: true}, {SM: 75}, {SM: 90}}
	slices.SortFunc(rows, matrix.Row.Compare)
	if got := fmt.Sprint(rows); got != "[sm75 sm90 ptx90 sm120]" {
		t.Errorf("in order: %s", got)
	}
}

// The GPUs are the ones that llcuda 1.x gave the wrong code, and the edges of NVIDIA's rules.
func TestWhichGPURunsWhichCode(t *testing.T) {
	plain := func(sm matrix.SM) matrix.Code { return matrix.Code{SM: sm} }
	for _, test := range []struct {
		gpu        string
		sm         matrix.SM
		code       matrix.Code
		cubin, ptx bool
	}{
		{"940M", 50, plain(50), true, true},
		{"GTX 970 is newer than 5.0 within Maxwell", 52, plain(50), true, true},
		{"GTX 750 is older than 5.2 code", 50, plain(52), false, false},
		{"P100 takes its own", 60, plain(60), true, true},
		{"P100 never takes 6.1", 60, plain(61), false, false},
		{"GTX 1080 takes 6.0", 61, plain(60), true, true},
		{"P100 does not take Maxwell's cubin, but its PTX", 60, plain(50), false, true},
		{"V100 is not served by T4 code", 70, plain(75), false, false},
		{"T4 takes Volta's cubin: one major", 75, plain(70), true, true},
		{"A100 is not served by RTX 30 code", 80, plain(86), false, false},
		{"RTX 3090 takes A100's cubin", 86, plain(80), true, true},
		{"RTX 4090 takes RTX 30's cubin", 89, plain(86), true, true},
		{"H100 takes no 8.9 cubin, but its PTX", 90, plain(89), false, true},
		{"H100 and 8.0", 90, plain(80), false, true},
		{"B200 and 8.9", 100, plain(89), false, true},
		{"RTX 5090 and 8.9", 120, plain(89), false, true},
		{"RTX 5090 does not take B200's cubin", 120, plain(100), false, true},
		{"T4 compiles no PTX of 8.9", 75, plain(89), false, false},
		{"RTX 5090 takes its own architecture-specific code", 120, matrix.Code{SM: 120, Variant: "a"}, true, true},
		{"GB10 takes no architecture-specific code of 12.0", 121, matrix.Code{SM: 120, Variant: "a"}, false, false},
		{"GB10 takes plain code of 12.0", 121, plain(120), true, true},
		{"GB10 takes code of 12.0's family", 121, matrix.Code{SM: 120, Variant: "f"}, true, true},
		{"B300 takes B200's cubin", 103, plain(100), true, true},
		{"B200 takes no code of 12.0's family", 100, matrix.Code{SM: 120, Variant: "f"}, false, false},
	} {
		if got := test.sm.RunsCubin(test.code); got != test.cubin {
			t.Errorf("%s: %s.RunsCubin(%s) = %t, want %t", test.gpu, test.sm, test.code, got, test.cubin)
		}
		if got := test.sm.RunsPTX(test.code); got != test.ptx {
			t.Errorf("%s: %s.RunsPTX(%s) = %t, want %t", test.gpu, test.sm, test.code, got, test.ptx)
		}
	}
}
