package hub

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRef(t *testing.T) {
	for in, want := range map[string]Ref{
		"org/repo:file.gguf":            {"org/repo", "file.gguf", "main"},
		"org/repo:a/b c.gguf@v1.0":      {"org/repo", "a/b c.gguf", "v1.0"},
		"o-r_g/re.po-1:f@x.gguf@pr/1":   {"o-r_g/re.po-1", "f@x.gguf", "pr/1"},
		"org/repo:file.gguf@" + commit1: {"org/repo", "file.gguf", commit1},
	} {
		got, err := ParseRef(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%s: %+v, %v, %s", in, got, err, got.String())
		}
	}
	for _, in := range []string{
		"", "org/repo", "repo:file", "a/b/c:file", "org/re--po:file", "org/re..po:file", "-org/repo:file", "org/repo.:file", "../x:file", "org/..:file",
		"org/repo:", "org/repo:/etc/passwd", "org/repo:../x", "org/repo:a/../../x", "org/repo:a//b", "org/repo:.", `org/repo:a\b`, "org/repo:a\x00b", "org/repo:a\x1bb", "org/repo:a\xffb",
		"org/repo:file@", "org/repo:file@../../x", "org/repo:file@/x",
	} {
		if got, err := ParseRef(in); err == nil {
			t.Errorf("%q was read as %+v", in, got)
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
	for _, env := range []map[string]string{{"HF_ENDPOINT": "hub.example"}, {"HF_ENDPOINT": "file:///x"}, {"HF_TOKEN": "a b"}, {"HF_TOKEN_PATH": home + "/broken"}, {"HF_TOKEN_PATH": home}} {
		if got, err := FromEnvironment(func(key string) string { return env[key] }); err == nil {
			t.Errorf("%v gave %+v", env, got)
		}
	}
}
