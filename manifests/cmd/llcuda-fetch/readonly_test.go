package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A Kaggle notebook without internet access gets an export as a data set: a read-only folder, and no network.
func TestReadOnlySources(t *testing.T) {
	dir := t.TempDir()
	r := fetchtest.New(t, fetchtest.Options{Models: []matrix.Model{{Name: "tiny-Q4_K_M", Aliases: []string{"tiny"}, Repo: "org/tiny", File: "tiny.gguf", Source: "org/tiny", Licence: "mit"}}})
	commit := strings.Repeat("1", 40)
	repo := filepath.Join(dir, "hub", "models--org--tiny")
	weights := filepath.Join(repo, "snapshots", commit, "tiny.gguf")
	if err := errors.Join(os.MkdirAll(filepath.Dir(weights), 0o777), os.MkdirAll(filepath.Join(repo, "refs"), 0o777),
		os.WriteFile(filepath.Join(repo, "refs", "main"), []byte(commit), 0o644), os.WriteFile(filepath.Join(dir, "key.pub"), r.PublicKey(t), 0o644)); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(weights)
	if err == nil {
		err = errors.Join(tinygguf.Write(f, tinygguf.Options{}), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	host, err := filepath.Abs("../../testdata/hosts/kaggle-t4x2.json")
	if err != nil {
		t.Fatal(err)
	}
	script := `set -e
cd ` + dir + `
export HF_ENDPOINT=http://127.0.0.1:1 HF_HUB_CACHE=$PWD/hub LLCUDA_HOME=$PWD/first
run() { llcuda-fetch --public-key key.pub --as-host ` + host + ` "$@"; }
run --mirror ` + r.Dir + ` export --sm 75 --model tiny --to carried --offline
mkdir -p 'input/data set'
mount --bind carried 'input/data set'
mount -o remount,bind,ro 'input/data set'
if touch 'input/data set/x' 2>/dev/null; then echo WRITABLE; fi
export HF_HUB_CACHE=$PWD/second-hub LLCUDA_HOME=$PWD/second
run install --from 'input/data set' --model tiny --offline
run inspect tiny --json
export HF_HUB_CACHE=$PWD/third-hub LLCUDA_HOME=$PWD/third LLCUDA_MIRROR="$PWD/input/data set"
run --quiet
run pull tiny
run models
unset LLCUDA_MIRROR
export HF_HUB_CACHE=$PWD/fourth-hub # remembered from the installation
run pull org/tiny:tiny.gguf
cmp ` + weights + ` "$(run pull TINY --offline)"
echo WHOLE`
	data, err := child(t, "unshare", "--map-root-user", "--mount", "sh", "-c", script).CombinedOutput()
	out := string(data)
	if err != nil && strings.Contains(out, "unshare") {
		t.Skipf("this machine makes no namespaces: %s", out)
	}
	if err != nil || strings.Contains(out, "WRITABLE") {
		t.Fatalf("%v\n%s", err, out)
	}
	path := "/models--org--tiny/snapshots/" + commit + "/tiny.gguf"
	for _, want := range []string{"run it:    llcuda-fetch run llama-server -m tiny-Q4_K_M\n", `"path": "` + dir + "/second-hub" + path, "\n" + dir + "/third-hub" + path + "\n", " yes     org/tiny\n",
		"\n" + dir + "/fourth-hub" + path + "\n", "\nWHOLE\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
}
