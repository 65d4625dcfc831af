package hub

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseName(t *testing.T) {
	const endpoint = "https://hub.example:8443/x"
	file := func(path, revision string) Name { return Name{Repo: "org/repo", Path: path, Revision: revision} }
	for in, want := range map[string]Name{
		"org/repo:file.gguf":            file("file.gguf", "main"),
		"org/repo:a/b c.gguf@v1.0":      file("a/b c.gguf", "v1.0"),
		"org/repo:f@x.gguf@pr/1":        file("f@x.gguf", "pr/1"),
		"org/repo:file.gguf@" + commit1: file("file.gguf", commit1),
		"org/repo":                      file("", "main"),
		"o-r_g/re.po-1":                 {Repo: "o-r_g/re.po-1", Revision: "main"},
		"org/repo@v1":                   file("", "v1"),
		"org/repo:Q4_K_M":               {Repo: "org/repo", Quant: "Q4_K_M", Revision: "main"},
		"org/repo:ud-iq2_xxs@v1":        {Repo: "org/repo", Quant: "ud-iq2_xxs", Revision: "v1"},
	} {
		got, err := ParseName(in, endpoint)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%s: %+v, %v, %s", in, got, err, got)
		}
	}
	for in, want := range map[string]Name{
		"https://huggingface.co/org/repo":                                     file("", "main"),
		" http://www.HuggingFace.co/org/repo/ ":                               file("", "main"),
		"hf.co/org/repo":                                                      file("", "main"),
		"hf.co/org/repo@v1":                                                   file("", "v1"),
		"huggingface.co/org/repo:Q8_0":                                        {Repo: "org/repo", Quant: "Q8_0", Revision: "main"},
		"https://hf.co/org/repo:a/b.gguf@v1?download=true":                    file("a/b.gguf", "v1"),
		"https://huggingface.co/org/repo/blob/main/a.gguf":                    file("a.gguf", "main"),
		"https://huggingface.co/org/repo/resolve/v1/f/a.gguf?download=true":   file("f/a.gguf", "v1"),
		"https://huggingface.co/org/repo/raw/main/a%20b%23.gguf#L1":           file("a b#.gguf", "main"),
		"https://huggingface.co/org/repo/blob/refs%2Fpr%2F1/a.gguf":           file("a.gguf", "refs/pr/1"),
		"https://huggingface.co/org/repo/resolve/refs/pr/1/a.gguf":            file("a.gguf", "refs/pr/1"),
		"https://huggingface.co/org/repo/tree/main":                           file("", "main"),
		"https://huggingface.co/org/repo/tree/v1/f/UD":                        {Repo: "org/repo", Folder: "f/UD", Revision: "v1"},
		"https://huggingface.co/org/repo?show_file_info=a.gguf":               file("a.gguf", "main"),
		"https://huggingface.co/org/repo/tree/main?show_file_info=f%2Fa.gguf": file("f/a.gguf", "main"),
		"https://hub.example:8443/x/org/repo/resolve/main/a.gguf":             file("a.gguf", "main"),
		"hub.example:8443/x/org/repo:Q8_0":                                    {Repo: "org/repo", Quant: "Q8_0", Revision: "main"},
		"org/repo/blob/main/a.gguf":                                           file("a.gguf", "main"),
	} {
		got, err := ParseName(in, endpoint)
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
	}
	for in, want := range map[string]string{
		"": "form", "repo:file": "form", "a/b/c:file": "form", "org/repo:": "form", "org/repo/a.gguf": "write org/repo:a.gguf",
		"org/re--po:file": "org/name", "org/re..po:file": "org/name", "-org/repo:file": "org/name", "org/repo.:file": "org/name", "../x:file": "org/name", "org/..:file": "org/name",
		"org/repo:/etc/passwd": "not a path", "org/repo:../x": "not a path", "org/repo:a/../../x": "not a path", "org/repo:a//b": "not a path", "org/repo:.": "not a path",
		`org/repo:a\b`: "not a path", "org/repo:a\x00b": "not a path", "org/repo:a\x1bb": "not a path", "org/repo:a\xffb": "not a path",
		"org/repo:file@": "not a branch", "org/repo:file@../../x": "not a branch", "org/repo:file@/x": "not a branch", "org/repo@": "not a branch",
		"https://example.com/org/repo": "example.com is not the host", "https://huggingface.co.example/org/repo": "is not the host",
		"https://hub.example/x/org/repo": "is not the host", "ftp://x/y": "is not the host",
		"https://huggingface.co/": "not the address of", "https://huggingface.co/org": "not the address of", "https://huggingface.co/datasets/org/repo": "not the address of",
		"https://huggingface.co/org/repo/discussions/1": "not the address of", "https://huggingface.co/org/repo/blob/main": "names no file",
		"https://huggingface.co/org/repo/blob/main/%2e%2e/a.gguf": "not a path", "https://huggingface.co/org/repo/tree/main/..%2f..": "not a path", "https://huggingface.co/org/repo/blob/main/%zz": "escape",
		"https://huggingface.co/org/repo?show_file_info=../../x": "not a path",
	} {
		got, err := ParseName(in, endpoint)
		var refused *RefError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want an error with %q", in, got, err, want)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	home := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("token", " hf_file\r\n")
	write("other", "hf_other")
	write("broken", "hf_a b")
	write("empty", "\n")
	tests := map[string]struct {
		env  map[string]string
		want Client
	}{
		"nothing":           {nil, Client{Cache: "/home/u/.cache/huggingface/hub", Endpoint: DefaultEndpoint}},
		"XDG":               {map[string]string{"XDG_CACHE_HOME": "/x"}, Client{Cache: "/x/huggingface/hub", Endpoint: DefaultEndpoint}},
		"HF_HOME":           {map[string]string{"HF_HOME": home, "XDG_CACHE_HOME": "/x"}, Client{Cache: home + "/hub", Endpoint: DefaultEndpoint, Token: "hf_file"}},
		"old name":          {map[string]string{"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h"}, Client{Cache: "/old", Endpoint: DefaultEndpoint}},
		"new name":          {map[string]string{"HF_HUB_CACHE": "~/new/$N", "N": "n", "HUGGINGFACE_HUB_CACHE": "/old"}, Client{Cache: "/home/u/new/n", Endpoint: DefaultEndpoint}},
		"HF_TOKEN":          {map[string]string{"HF_TOKEN": "hf_a\n", "HUGGING_FACE_HUB_TOKEN": "hf_b", "HF_HOME": home}, Client{Cache: home + "/hub", Endpoint: DefaultEndpoint, Token: "hf_a"}},
		"old token":         {map[string]string{"HUGGING_FACE_HUB_TOKEN": "hf_b"}, Client{Cache: "/home/u/.cache/huggingface/hub", Endpoint: DefaultEndpoint, Token: "hf_b"}},
		"blank HF_TOKEN":    {map[string]string{"HF_TOKEN": " ", "HF_HOME": home}, Client{Cache: home + "/hub", Endpoint: DefaultEndpoint, Token: "hf_file"}},
		"token path":        {map[string]string{"HF_TOKEN_PATH": home + "/other", "HF_HOME": home}, Client{Cache: home + "/hub", Endpoint: DefaultEndpoint, Token: "hf_other"}},
		"empty token file":  {map[string]string{"HF_TOKEN_PATH": home + "/empty"}, Client{Cache: "/home/u/.cache/huggingface/hub", Endpoint: DefaultEndpoint}},
		"no implicit token": {map[string]string{"HF_TOKEN": "hf_a", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, Client{Cache: "/home/u/.cache/huggingface/hub", Endpoint: DefaultEndpoint}},
		"endpoint, offline": {map[string]string{"HF_ENDPOINT": "https://hub.example/x/", "HF_HUB_OFFLINE": "true", "HF_HUB_DISABLE_SYMLINKS": "yes"},
			Client{Cache: "/home/u/.cache/huggingface/hub", Endpoint: "https://hub.example/x", Offline: true, NoLinks: true}},
		"not offline": {map[string]string{"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, Client{Cache: "/home/u/.cache/huggingface/hub", Endpoint: DefaultEndpoint}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := FromEnvironment(func(key string) string {
				if key == "HOME" {
					return "/home/u"
				}
				return test.env[key]
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	// What is wrong with the endpoint or the token is for those who ask the Hub to say.
	for _, env := range []map[string]string{{"HF_ENDPOINT": "hub.example"}, {"HF_ENDPOINT": "file:///x"}} {
		c, err := FromEnvironment(func(key string) string { return env[key] })
		if err != nil || c.EndpointProblem == nil {
			t.Fatalf("%v: %+v, %v", env, c, err)
		}
		c.Cache = t.TempDir()
		if err := refuse(t, c, "org/model:model.gguf", Want{}); !errors.Is(err, c.EndpointProblem) {
			t.Errorf("%v: %v", env, err)
		}
	}
	for _, env := range []map[string]string{{"HF_TOKEN": "a b"}, {"HF_TOKEN_PATH": home + "/broken"}, {"HF_TOKEN_PATH": home}, {"HF_TOKEN_PATH": home + "/token/x"}} {
		c, err := FromEnvironment(func(key string) string { return env[key] })
		var problem *TokenFileError
		if err != nil || c.Token != "" || !errors.As(c.TokenProblem, &problem) {
			t.Errorf("%v: %+v, %v", env, c, err)
		}
	}
}
