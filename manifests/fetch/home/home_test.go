package home

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// The table is read by the tests of the Python package, too, which finds the folder by itself.
func TestStore(t *testing.T) {
	data, err := os.ReadFile("testdata/store.json")
	if err != nil {
		t.Fatal(err)
	}
	var table map[string]struct {
		Given       string
		Environment map[string]string
		Want        string // empty where there is an error; {here} is the current folder
	}
	if err := json.Unmarshal(data, &table); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range table {
		got, err := Store(test.Given, func(name string) string { return test.Environment[name] })
		if want := strings.ReplaceAll(test.Want, "{here}", here); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestNotebook(t *testing.T) {
	for name, test := range map[string]struct {
		variable string
		exists   bool
		want     string
	}{
		"none":            {"", false, ""},
		"Colab":           {"COLAB_GPU", false, "colab"},
		"Kaggle":          {"KAGGLE_KERNEL_RUN_TYPE", false, "kaggle"},
		"Kaggle's folder": {"COLAB_GPU", true, "kaggle"}, // its image is made from Colab's
	} {
		getenv := func(name string) string {
			if name == test.variable {
				return "1"
			}
			return ""
		}
		if got := Notebook(getenv, func(path string) bool { return test.exists && path == "kaggle/working" }); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
