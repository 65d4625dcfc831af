package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer/transfertest"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// The client with its probe beside it, on a machine whose libcuda.so.1 answers what a test wants. What CUDA refuses is
// refused before any byte is downloaded.
func TestAsksCUDA(t *testing.T) {
	release := fetchtest.New(t, fetchtest.Options{SMs: []matrix.SM{61, 75, 86, 90}})
	dir := t.TempDir()
	program, driver, key := filepath.Join(dir, "llcuda-fetch"), filepath.Join(dir, "driver"), filepath.Join(dir, "key.pub")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self) // it is llcuda-fetch under that name; a link would lead back to its own folder
	if err := errors.Join(err, os.WriteFile(program, data, 0o755), os.Mkdir(driver, 0o755), os.WriteFile(key, release.PublicKey(t), 0o644)); err != nil {
		t.Fatal(err)
	}
	const sources = "../../fetch/detect/"
	for _, arguments := range [][]string{
		{"-o", filepath.Join(dir, "llcuda-probe"), sources + "probe/probe.c", "-ldl"},
		{"-shared", "-fPIC", "-o", filepath.Join(driver, "libcuda.so.1"), sources + "testdata/libcuda.c"},
	} {
		if out, err := child(t, "gcc", arguments...).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
	}
	const pair = "STANDIN_GPUS=61 GTX 1080;86 RTX 3090"
	for name, test := range map[string]struct {
		env, args  []string
		code       int
		want       string // in what it prints
		idle       bool   // nothing was downloaded
		memory     string // in what was recorded
		before     string // a shell command, in a mount namespace, with the store in $S
		afterwards string // a file of the store that must be there
	}{
		"a GPU":      {env: []string{"STANDIN_GPUS=75 Tesla T4"}, memory: "15095", afterwards: "current"},
		"a slice":    {env: []string{"STANDIN_GPUS=90 NVIDIA H100 MIG 1g.10gb"}, memory: "9984"},
		"refused":    {env: []string{"STANDIN_INIT=803"}, code: 4, want: "CUDA_ERROR_OF_TEST_803 (803)", idle: true},
		"hidden":     {env: []string{pair, "CUDA_VISIBLE_DEVICES=-1"}, code: 4, want: "CUDA_VISIBLE_DEVICES=-1 hides every GPU", idle: true},
		"the CPU":    {env: []string{pair, "CUDA_VISIBLE_DEVICES="}, args: []string{"--allow-cpu"}, afterwards: "current"},
		"an image":   {env: []string{"STANDIN_INIT=100"}, args: []string{"install", "--sm", "86"}, afterwards: "current"},
		"one of two": {env: []string{pair, "CUDA_VISIBLE_DEVICES=0"}, args: []string{"plan"}, want: "bundle     llcuda-bins-sm61, by cubin\n"},
		"the other":  {env: []string{pair, "CUDA_VISIBLE_DEVICES=1"}, args: []string{"plan"}, want: "bundle     llcuda-bins-sm86, by cubin\n"},
		"detect":     {env: []string{pair}, args: []string{"detect"}, want: "GPU 1      RTX 3090, compute capability 8.6, 15095 MiB, GPU-10111213-1415-1617-1819-1a1b1c1d1e1f\n", idle: true},
		"doctor":     {env: []string{"STANDIN_GPUS=75 Tesla T4"}, args: []string{"doctor"}, want: "ok    asked      CUDA 12.4 answers, from " + driver + "/libcuda.so.1\n"},
		"doctor, read-only": {env: []string{"STANDIN_GPUS=75 Tesla T4"}, args: []string{"doctor"}, code: 1, before: "mount --bind $S $S && mount -o remount,ro,bind $S",
			want: "hint: this user cannot write there: --home (LLCUDA_HOME) chooses another folder than "},
		"install, read-only": {env: []string{"STANDIN_GPUS=75 Tesla T4"}, code: 1, before: "mount --bind $S $S && mount -o remount,ro,bind $S", idle: true,
			want: "hint: this user cannot write there: --home (LLCUDA_HOME) chooses another folder than "},
		"doctor, noexec":                 {env: []string{"STANDIN_GPUS=75 Tesla T4"}, args: []string{"doctor"}, code: 1, before: "mount -t tmpfs -o noexec tmpfs $S", want: "mounted noexec"},
		"a probe that cannot be started": {env: []string{"STANDIN_GPUS=75 Tesla T4"}, code: 4, before: "mount --bind /dev/null " + dir + "/llcuda-probe", want: "no NVIDIA GPU was found", idle: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mirror, home := transfertest.New(t, release.Dir, transfertest.Fault{}), t.TempDir()
			arguments := append([]string{"--home", home, "--public-key", key, "--mirror", mirror.URL}, test.args...)
			cmd := child(t, program, arguments...)
			if test.before != "" {
				script := test.before + ` && exec "$0" "$@"`
				cmd = child(t, "unshare", append([]string{"--map-root-user", "--mount", "sh", "-c", script, program}, arguments...)...)
			}
			cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "S=" + home, "LD_LIBRARY_PATH=" + driver}, test.env...)
			data, err := cmd.CombinedOutput()
			out := string(data)
			if err != nil && strings.Contains(out, "unshare") {
				t.Skipf("this machine makes no namespaces: %s", out)
			}
			if cmd.ProcessState.ExitCode() != test.code || !strings.Contains(out, test.want) {
				t.Errorf("%v, want code %d and %q\n%s", err, test.code, test.want, out)
			}
			if test.idle && len(mirror.Requests()) > 0 {
				t.Errorf("the mirror was asked for %v", mirror.Requests())
			}
			if test.afterwards != "" {
				if _, err := os.Lstat(filepath.Join(home, test.afterwards)); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			}
			if test.memory != "" {
				records, _ := filepath.Glob(home + "/installs/*/install.json")
				if len(records) != 1 {
					t.Fatalf("%d installations\n%s", len(records), out)
				}
				if record, err := os.ReadFile(records[0]); err != nil || !strings.Contains(string(record), test.memory) {
					t.Errorf("%v, without %s: %s", err, test.memory, record)
				}
			}
		})
	}
}
