package bundler_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestAuditReport(t *testing.T) {
	for _, test := range []struct {
		row    matrix.Row
		fatbin string
		code   manifests.DeviceCode
		driver manifests.DriverMin
	}{
		{matrix.Row{SM: 89}, "sm89.fatbin sm89.fatbin", manifests.DeviceCode{Cubin: []matrix.Code{{SM: 89}}, PTX: []matrix.Code{}}, manifests.DriverMin{Cubin: "525.60.13"}},
		{matrix.Row{SM: 75, PTX: true}, "ptx75.fatbin", manifests.DeviceCode{Cubin: []matrix.Code{}, PTX: []matrix.Code{{SM: 75}}}, manifests.DriverMin{PTX: "550.54.14"}},
	} {
		got, err := bundler.Audit(open(t, newTree(t, test.fatbin)), rulesOf(test.row))
		if err != nil {
			t.Fatal(err)
		}
		want := &bundler.Report{
			DeviceCode: test.code,
			Requires: manifests.Requires{
				DriverMin:   test.driver,
				Glibc:       "2.34",
				Libraries:   []string{"libc.so.6", "libcuda.so.1", "libcudart.so.12"},
				CPUVariants: []string{"haswell", "x64"},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", test.row, diff)
		}
	}
}

// TestAuditNamesEverything checks that one run of the audit reports everything that needs fixing.
func TestAuditNamesEverything(t *testing.T) {
	dir := newTree(t, "sm86.fatbin")
	for _, name := range []string{"LICENSE", "binaries/cuda12/llama-cli"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := bundler.Audit(open(t, dir), rules(75))
	want := []string{"LICENSE: missing-file", "binaries/cuda12/llama-cli: missing-file", "lib/libggml-cuda.so: device-code"}
	if diff := cmp.Diff(want, findingsIn(t, err)); diff != "" {
		t.Error(diff)
	}
	if refused, ok := errors.AsType[*bundler.AuditError](err); ok && refused.Name != "llcuda-bins-sm75" {
		t.Errorf("the error is about %q", refused.Name)
	}
}
