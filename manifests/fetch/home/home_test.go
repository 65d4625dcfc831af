package home

import (
	"os"
	"path/filepath"
	"testing"
)

func TestStore(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		given       string
		environment map[string]string
		want        string
	}{
		"given":               {"/store/../other/", map[string]string{"HOME": "/home/u", "COLAB_GPU": "1"}, "/other"},
		"given, relative":     {"here/store", nil, filepath.Join(here, "here/store")},
		"given, ~":            {"~/x", map[string]string{"HOME": "/home/u"}, "/home/u/x"},
		"given, ~ alone":      {"~", map[string]string{"HOME": "/home/u"}, "/home/u"},
		"given, variables":    {"$DISK/${SUB}/x", map[string]string{"DISK": "/d", "SUB": "s"}, "/d/s/x"},
		"given, no variable":  {"/d/a$b", nil, "/d/a$b"},
		"given, ~ inside":     {"/d/~/x", nil, "/d/~/x"},
		"given, no HOME":      {"~/x", nil, ""},
		"given, another user": {"~root/x", map[string]string{"HOME": "/home/u"}, ""},
		"given, quotes":       {`"/x y"`, nil, ""},
		"given, apostrophes":  {"'~/x'", map[string]string{"HOME": "/home/u"}, ""},
		"Kaggle":              {"", map[string]string{"KAGGLE_URL_BASE": "x", "COLAB_GPU": "0", "HOME": "/root"}, "/kaggle/working/.cache/llcuda"},
		"Colab":               {"", map[string]string{"COLAB_RELEASE_TAG": "x", "HOME": "/root"}, "/content/.cache/llcuda"},
		"cache":               {"", map[string]string{"XDG_CACHE_HOME": "/c", "HOME": "/home/u"}, "/c/llcuda"},
		"user":                {"", map[string]string{"HOME": "/home/u"}, "/home/u/.cache/llcuda"},
		"cache that is wrong": {"", map[string]string{"XDG_CACHE_HOME": "c", "HOME": "/home/u"}, "/home/u/.cache/llcuda"},
		"nowhere":             {"", map[string]string{"HOME": "u"}, ""},
	} {
		got, err := Store(test.given, func(name string) string { return test.environment[name] })
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
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
