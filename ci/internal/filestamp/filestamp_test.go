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

// A record saves the second reading of a file that did not change, and of no other.
func TestRecord(t *testing.T) {
	dir := t.TempDir()
	file, kept := filepath.Join(dir, "file"), filepath.Join(dir, "record")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check := func(right bool) (read bool) {
		t.Helper()
		r := filestamp.OpenRecord(kept)
		got, err := r.Check(file, func() (bool, error) { read = true; return right, nil })
		if err != nil || got != (right || !read) {
			t.Fatalf("Check = %v, %v", got, err)
		}
		if err := r.Save(); err != nil {
			t.Fatal(err)
		}
		return read
	}
	settle := func() { time.Sleep(1100 * time.Millisecond) }

	write("text")
	if !check(true) || !check(true) {
		t.Error("a file that was written a moment ago is not read")
	}
	settle()
	if !check(true) {
		t.Error("a file is not read the first time")
	}
	if check(true) {
		t.Error("a file that did not change is read again")
	}
	then := time.Unix(1_600_000_000, 0)
	if err := os.Chtimes(file, then, then); err != nil {
		t.Fatal(err)
	}
	write("t3xt")
	if err := os.Chtimes(file, then, then); err != nil {
		t.Fatal(err)
	}
	settle()
	if !check(false) || !check(false) {
		t.Error("a file that changed, and is wrong, is not read")
	}
	if !check(true) || check(true) {
		t.Error("a file that was found right is not read once")
	}

	// A copy of everything, as a cache that is restored elsewhere, is read again; so is everything after damage to the record.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	settle()
	read := false
	if _, err := filestamp.OpenRecord(filepath.Join(copied, "record")).Check(filepath.Join(copied, "file"), func() (bool, error) { read = true; return true, nil }); err != nil || !read {
		t.Errorf("a copy is not read: %v", err)
	}
	for _, text := range []string{"", "null", "[]", `{"file": 1}`, `{"file`} {
		if err := os.WriteFile(kept, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if !check(true) || check(true) {
			t.Errorf("with the record %q, the file is not read once", text)
		}
	}
}
