package engine

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// What one engine compiled another one need not, if the folder came along: all objects of the same source, and those of a
// changed one that do not see the change. What the folder holds is never a reason to fail.
func TestCompilerCache(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it compiles on a real engine")
	}
	m, err := spec.Default()
	if err != nil {
		t.Fatal(err)
	}
	llama := filepath.Join(t.TempDir(), "minillama")
	if err := os.CopyFS(llama, os.DirFS(filepath.Join("..", "..", "testdata", "minillama"))); err != nil {
		t.Fatal(err)
	}
	unseen := func(name string) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(llama, "ggml", "src", "ggml-cuda", name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(f, "\n// %d\n", time.Now().UnixNano())
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	unseen("common.cuh")
	options := allToolkits(t)
	options.Base, options.Toolkits, options.CompilerCache = BaseMade, m.Toolkits[:1], t.TempDir()
	options.Source = farm.Source{Dir: llama, Version: "0.5.0"}
	type objectCounts struct{ Compiled, FromCache int }
	var said string
	// build is the step on an engine that has compiled nothing yet.
	build := func() objectCounts {
		t.Helper()
		session, err := Open(t.Context(), options) // in one session the engine reads a folder once
		if err != nil {
			t.Fatal(err)
		}
		defer session.Close()
		b := session.Builders[0].(*builder)
		b.volume, said = "llcuda-test-"+rand.Text(), ""
		b.limits = "none of " + b.volume // a stage with other limits is another one, which the engine has not run either
		step := farm.Step{Kind: farm.StepDevice, Target: matrix.Target{SM: 75, Toolkit: m.Toolkits[0].Name}, Source: options.Source, Recipe: session.Recipes[0]}
		stats, err := b.Build(t.Context(), step, t.TempDir(), func(e farm.Event) { said += e.Line + "\n" })
		if err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		return objectCounts{stats.Compiled, stats.CacheHits}
	}
	check := func(what string, want objectCounts, words string) {
		t.Helper()
		if diff := cmp.Diff(want, build()); diff != "" || !strings.Contains(said, words) {
			t.Errorf("%s (-want +got):\n%s\n%s", what, diff, said)
		}
	}
	all := build()
	if all.Compiled < 2 || all.FromCache != 0 {
		t.Fatalf("the first build: %+v\n%s", all, said)
	}
	n := all.Compiled
	kept := filepath.Join(options.CompilerCache, "sm75.tar")
	whole, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	check("the same again", objectCounts{0, n}, "files of the compiler cache")
	unseen("scale.cu")
	check("one file changed", objectCounts{1, n - 1}, "files of the compiler cache")
	// What that build did not use is gone: the folder does not grow from build to build.
	if info, err := os.Stat(kept); err != nil || info.Size() > int64(len(whole))*3/2 {
		t.Errorf("%d bytes are kept after %d, %v", info.Size(), len(whole), err)
	}

	link := &tar.Header{Typeflag: tar.TypeSymlink, Name: "ccache/a/link", Linkname: "/etc"}
	toolchain := &tar.Header{Typeflag: tar.TypeReg, Name: "toolchain", Mode: 0o644, Size: 6}
	configuration := &tar.Header{Typeflag: tar.TypeReg, Name: "ccache/ccache.conf", Mode: 0o644, Size: 8}
	for what, test := range map[string]struct {
		archive []byte
		want    objectCounts
		said    string
	}{
		"cut off":                {whole[:len(whole)/2], objectCounts{n, 0}, "damaged: compiling without them"},
		"a link in it":           {repacked(t, whole, link, ""), objectCounts{n, 0}, "damaged: compiling without them"},
		"of another toolchain":   {repacked(t, whole, toolchain, "other\n"), objectCounts{n, 0}, "another toolchain: compiling without them"},
		"a configuration beside": {repacked(t, whole, configuration, "garbage\n"), objectCounts{1, n - 1}, "files of the compiler cache"},
	} {
		if err := os.WriteFile(kept, test.archive, 0o644); err != nil {
			t.Fatal(err)
		}
		check(what, test.want, test.said)
	}
}

// repacked is an archive with one entry more, which replaces one of that name.
func repacked(t *testing.T, archive []byte, header *tar.Header, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == header.Name {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			t.Fatal(err)
		}
	}
	err := tw.WriteHeader(header)
	if err == nil {
		_, err = io.WriteString(tw, content)
	}
	if err := errors.Join(err, tw.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
