package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// The commands that README.md, CONTRIBUTING.md and docs/ show are there, with their flags.
func TestDocsCommands(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	inline := regexp.MustCompile("`(llcuda-fetch[^`]*)`")
	shown := 0
	for _, path := range append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"), "README.md") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(data), "\n")
		for _, match := range inline.FindAllStringSubmatch(string(data), -1) {
			lines = append(lines, match[1])
		}
		for _, line := range lines {
			command, ok := strings.CutPrefix(strings.TrimPrefix(line, "./"), "llcuda-fetch")
			if !ok || command != "" && command[0] != ' ' {
				continue
			}
			shown++
			command, _, _ = strings.Cut(command, " #")
			if out, err := help(t, strings.Fields(command)); err != nil {
				t.Errorf("%s: llcuda-fetch%s: %v\n%s", path, command, err, out)
			}
		}
	}
	if shown < 20 {
		t.Errorf("they show only %d", shown)
	}
	for _, wrong := range []string{"instal", "install --sn 75", "completion tcsh"} {
		if out, err := help(t, strings.Fields(wrong)); err == nil {
			t.Errorf("llcuda-fetch %s is taken for right:\n%s", wrong, out)
		}
	}
}

// help asks for the help of a command as it is shown, with its flags.
func help(t *testing.T, words []string) (string, error) {
	t.Helper()
	command := "llcuda-fetch"
	if len(words) > 0 && words[0][0] != '-' {
		command += " " + words[0]
		words = words[1:]
		if command == "llcuda-fetch completion" {
			command += " " + words[0]
			words = words[1:]
		}
	}
	// --help stands before the rest: what follows run's program is that program's own.
	arguments := slices.Concat(strings.Fields(command)[1:], []string{"--help"}, words)
	out, err := child(t, "llcuda-fetch", arguments...).CombinedOutput()
	if err == nil && !strings.Contains(string(out), "Usage:\n  "+command) {
		err = errors.New("that is the help of another command")
	}
	return string(out), err
}

// What the release workflow runs on a GPU before it publishes, on a release of the test's own: its commands, as they stand
// there.
func TestWorkflowCommands(t *testing.T) {
	data, err := os.ReadFile("../../../.github/workflows/release.yml")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(string(data)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "- run: llcuda-fetch "); ok {
			commands = append(commands, command)
		}
	}
	if len(commands) != 2 {
		t.Fatalf("the workflow has the commands %q", commands)
	}
	r := fetchtest.New(t, fetchtest.Options{
		Models: []matrix.Model{{Name: "gemma-3-1b-it-Q4_K_M", Repo: "org/tiny", File: "tiny.gguf", Source: "org/tiny", Licence: "mit"}},
		// llama-bench says with which model it was started.
		Programs: map[string]string{"llama-bench": "#!/bin/sh\necho \"bench: $*\"\n"},
	})
	work := t.TempDir()
	key, hub := filepath.Join(work, "key.pub"), filepath.Join(work, "hub")
	const commit = "1111111111111111111111111111111111111111"
	model := filepath.Join(hub, "models--org--tiny", "snapshots", commit, "tiny.gguf")
	for path, text := range map[string]string{
		key: string(r.PublicKey(t)), model: "no weights", filepath.Join(hub, "models--org--tiny", "refs", "main"): commit,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(r.Dir, filepath.Join(work, "dist")); err != nil {
		t.Fatal(err)
	}
	host, err := filepath.Abs("../../testdata/hosts/colab-t4.json")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"llcuda-bins-sm75 of release v1.1.0-runtime installed", "bench: -m " + model + " -ngl 99\n"} {
		// Whose key signed and which machine it is are not the same here.
		arguments := slices.Concat([]string{"--public-key", key, "--as-host", host, "--home", filepath.Join(work, "store")}, strings.Fields(commands[i]))
		cmd := child(t, "llcuda-fetch", arguments...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "HF_HUB_CACHE="+hub, "HF_ENDPOINT=http://127.0.0.1:1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("llcuda-fetch %s: %v; want %q:\n%s", commands[i], err, want, out)
		}
	}
}
