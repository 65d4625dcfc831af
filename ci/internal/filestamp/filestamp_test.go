package filestamp_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/filestamp"
)

// A stamp stays while a file does, and changes with whatever may have changed its bytes, though size and time are the same.
func TestOf(t *testing.T) {
	then := time.Unix(1_600_000_000, 0)
	write := func(t *testing.T, name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, then, then); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, file string)
		same   bool
	}{
		"nothing":          {func(*testing.T, string) {}, true},
		"read":             {func(t *testing.T, file string) { _, _ = os.ReadFile(file) }, true},
		"written in place": {func(t *testing.T, file string) { write(t, file, "one ") }, false},
		"longer":           {func(t *testing.T, file string) { write(t, file, "longer") }, false},
		"replaced": {func(t *testing.T, file string) {
			write(t, file+".new", "two ")
			if err := os.Rename(file+".new", file); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			write(t, file, "two ")
			before := filestamp.Of(file)
			if before == "" {
				t.Fatal("a file has no stamp")
			}
			time.Sleep(20 * time.Millisecond) // the clock of a file system ticks every few milliseconds
			test.change(t, file)
			if same := filestamp.Of(file) == before; same != test.same {
				t.Errorf("the stamp is the same: %v, want %v (%s, then %s)", same, test.same, before, filestamp.Of(file))
			}
		})
	}
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "missing", "link"} {
		if got := filestamp.Of(filepath.Join(dir, name)); got != "" {
			t.Errorf("%q, which is not a file, has the stamp %s", name, got)
		}
	}
}
