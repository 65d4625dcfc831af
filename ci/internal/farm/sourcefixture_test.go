package farm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A tree that passes for llama.cpp, as path → content. A content that begins
// with "→ " is a link, one that begins with "#!" is an executable.
func llamaTree() map[string]string {
	return map[string]string{
		"CMakeLists.txt": "cmake_minimum_required(VERSION 3.14)\nproject(\"llama.cpp\" C CXX)\n" +
			"set(LLAMA_VERSION_MAJOR 0)\nset(LLAMA_VERSION_MINOR 7)\nset(LLAMA_VERSION_PATCH 3)\n",
		"ggml/src/ggml-cuda/CMakeLists.txt": "# CUDA\n",
		"ggml/src/ggml.c":                   "int ggml;\n",
		"scripts/run.sh":                    "#!/bin/sh\n",
		"scripts/link.sh":                   "→ run.sh",
	}
}

func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch target, isLink := strings.CutPrefix(content, "→ "); {
		case isLink:
			err = os.Symlink(target, file)
		case strings.HasPrefix(content, "#!"):
			err = os.WriteFile(file, []byte(content), 0o755)
		default:
			err = os.WriteFile(file, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// mustGit runs git with a fixed author and date.
func mustGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=T", "-c", "user.email=t@example.org"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE=2024-05-06T07:08:09Z", "GIT_COMMITTER_DATE=2024-05-06T07:08:09Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

var commitTime = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// llamaRepo is a repository of three commits: an old tree without a version
// (tag b1), the tree of llamaTree (tag v0.7.3, annotated), and a change to it on
// the branch main.
func llamaRepo(t *testing.T) (dir string, commits []string) {
	t.Helper()
	dir = t.TempDir()
	mustGit(t, dir, "init", "-q", "-b", "main")
	old := llamaTree()
	old["CMakeLists.txt"] = "project(\"llama.cpp\" C CXX)\n"
	commit := func() {
		mustGit(t, dir, "add", "-A")
		mustGit(t, dir, "commit", "-q", "-m", "a change")
		commits = append(commits, mustGit(t, dir, "rev-parse", "HEAD"))
	}
	writeTree(t, dir, old)
	commit()
	mustGit(t, dir, "tag", "b1")
	os.Remove(filepath.Join(dir, "CMakeLists.txt"))
	os.Remove(filepath.Join(dir, "scripts/link.sh"))
	os.Remove(filepath.Join(dir, "scripts/run.sh"))
	writeTree(t, dir, llamaTreeWithout("ggml/src/ggml.c", "ggml/src/ggml-cuda/CMakeLists.txt"))
	commit()
	mustGit(t, dir, "tag", "-m", "a release", "v0.7.3")
	writeTree(t, dir, map[string]string{"new.c": "int x;\n"})
	commit()
	return dir, commits
}

func llamaTreeWithout(names ...string) map[string]string {
	files := llamaTree()
	for _, name := range names {
		delete(files, name)
	}
	return files
}

// pack makes a tar stream of a tree under the given top folder.
func pack(t *testing.T, top string, files map[string]string, extra ...*tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range files {
			if !yield(name) {
				return
			}
		}
	})
	for _, name := range names {
		content := files[name]
		header := &tar.Header{Name: top + name, Mode: 0o644, Size: int64(len(content)), ModTime: commitTime}
		if target, isLink := strings.CutPrefix(content, "→ "); isLink {
			header.Typeflag, header.Linkname, header.Size, content = tar.TypeSymlink, target, 0, ""
		}
		if strings.HasPrefix(content, "#!") {
			header.Mode = 0o755
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
	}
	for _, header := range extra {
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// bomb is the beginning of an archive with one far too large file.
func bomb(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&tar.Header{Name: "top/zeros", Size: maxSourceBytes + 1}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compressed(t *testing.T, how string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "gz":
		w = gzip.NewWriter(&buf)
	case "zst":
		w, err = zstd.NewWriter(&buf)
	case "xz":
		w, err = xz.NewWriter(&buf)
	default:
		return data
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func save(t *testing.T, name string, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// noPin is a pin that leads nowhere.
var noPin = matrix.LlamaPin{Repository: "http://127.0.0.1:1/none.git", Ref: "v1", Commit: strings.Repeat("0", 40)}
