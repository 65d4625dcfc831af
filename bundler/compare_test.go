package bundler_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
)

const compared = "llcuda-bins-sm75.tar.zst"

// Two builds of one tree are one archive; every difference is named, down to the section of an ELF
// file.
func TestCompareArchives(t *testing.T) {
	dir := newTree(t, "sm75.fatbin")
	released, _ := pack(t, dir, 75)
	compare := func(t *testing.T, tree string, id bundler.Identity) []bundler.Finding {
		t.Helper()
		fsys := open(t, tree)
		report, err := bundler.Audit(fsys, rules(75))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := bundler.Describe(fsys, rules(75), report, id)
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if _, err := bundler.Pack(context.Background(), fsys, meta, out, bundler.PackOptions{}); err != nil {
			t.Fatal(err)
		}
		findings, err := bundler.CompareArchives(context.Background(), filepath.Join(released, compared), filepath.Join(out, compared))
		if err != nil {
			t.Fatal(err)
		}
		return findings
	}
	if findings := compare(t, dir, identity()); len(findings) > 0 {
		t.Errorf("the same tree again: %v", findings)
	}

	edit := func(t *testing.T, name string, change func([]byte) []byte) string {
		t.Helper()
		tree := newTree(t, "sm75.fatbin")
		path := filepath.Join(tree, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return tree
	}
	t.Run("Text", func(t *testing.T) {
		findings := compare(t, edit(t, "LICENSE", func(b []byte) []byte { return append(b, '\n') }), identity())
		if diff := cmp.Diff([]string{"LICENSE: differs"}, keysOf(findings)); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
	})
	t.Run("Section", func(t *testing.T) {
		findings := compare(t, edit(t, "lib/libllama.so", func(b []byte) []byte {
			at := bytes.Index(b, []byte("GCC: ("))
			if at < 0 {
				t.Fatal("the library has no .comment to change")
			}
			b[at+1] = 'X'
			return b
		}), identity())
		if len(findings) != 1 || !strings.HasSuffix(findings[0].Detail, "; sections that differ: .comment") {
			t.Errorf("findings: %v", findings)
		}
	})
	t.Run("Build", func(t *testing.T) {
		id := identity()
		id.Build.BuilderImage = "sha256:other"
		findings := compare(t, dir, id)
		if len(findings) != 1 || findings[0].Path != "metadata.json, build" || !strings.Contains(findings[0].Detail, `rebuilt with "sha256:other"`) {
			t.Errorf("findings: %v", findings)
		}
	})
	t.Run("Compression", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), compared)
		data, err := os.ReadFile(filepath.Join(released, compared))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(other, recompressed(t, data), 0o644); err != nil {
			t.Fatal(err)
		}
		findings, err := bundler.CompareArchives(context.Background(), filepath.Join(released, compared), other)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(findings, func(f bundler.Finding) bool { return strings.Contains(f.Detail, "its compression is not") }) {
			t.Errorf("findings: %v", findings)
		}
	})
}

func TestReadMetadata(t *testing.T) {
	out, _ := pack(t, newTree(t, "sm75.fatbin"), 75)
	meta, err := bundler.ReadMetadata(context.Background(), filepath.Join(out, compared))
	if err != nil {
		t.Fatal(err)
	}
	if meta.Name != "llcuda-bins-sm75" || len(meta.Files) == 0 || !slices.ContainsFunc(meta.Files, func(f manifests.File) bool { return f.Path == "LICENSE" }) {
		t.Errorf("metadata: %+v", meta)
	}

	// What is wrong with a damaged archive is said, and not only that its metadata cannot be read.
	data, err := os.ReadFile(filepath.Join(out, compared))
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"cut off": data[:len(data)/2], "empty": nil, "another format": []byte("<html>")} {
		file := filepath.Join(t.TempDir(), compared)
		if err := os.WriteFile(file, damaged, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := bundler.ReadMetadata(context.Background(), file)
		if _, refused := errors.AsType[*bundler.AuditError](err); !refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// recompressed is a zstd archive at another level.
func recompressed(t *testing.T, data []byte) []byte {
	t.Helper()
	in, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var buf bytes.Buffer
	out, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteTo(out); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
