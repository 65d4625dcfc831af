package engine

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	cgroup1 = "30 25 0:28 /docker/7 /sys/fs/cgroup/memory ro,nosuid shared:9 master:4 - cgroup cgroup rw,memory\n" +
		"31 25 0:29 /docker/7 /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct\n" +
		"32 25 0:30 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,name=systemd\n"
	inCgroup1 = "9:name=systemd:/docker/7\n4:memory:/docker/7\n3:cpu,cpuacct:/docker/7\n0::/\n"
	cgroup2   = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n22 1 8:1 / / rw - ext4 /dev/sda rw\n"
)

// The number of compilers follows from what this process may use, in control groups of both versions
// and in their ancestors.
func TestJobs(t *testing.T) {
	script, err := filepath.Abs("stages/jobs.sh")
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	if err := os.WriteFile(filepath.Join(programs, "nproc"), []byte("#!/bin/sh\necho 8\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		gib   string
		files map[string]string // in addition to 64 GiB of memory
		env   []string
		jobs  string
		why   string
	}{
		{name: "no limits", gib: "3", files: map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/cpu.max": "max 100000"},
			jobs: "8", why: "8 cores, 64.0 GiB of memory for up to 3 GiB each"},
		{name: "little memory", gib: "3", files: map[string]string{"proc/self/cgroup": "", "proc/self/mountinfo": "", "proc/meminfo": "MemTotal: 7340032 kB\n"},
			jobs: "2", why: "7.0 GiB of memory"},
		{name: "no control groups", gib: "3", jobs: "8", why: "8 cores"},
		{name: "v2 memory", gib: "3", files: map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/memory.max": "3000000000\n", "sys/fs/cgroup/memory.high": "max\n"},
			jobs: "1", why: "2.8 GiB of memory (limit of /sys/fs/cgroup/memory.max) for up to 3 GiB each"},
		{name: "v2 memory.high", gib: "3", files: map[string]string{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/a/memory.high": "6500000000\n", "sys/fs/cgroup/a/memory.max": "12884901888\n"},
			jobs: "2", why: "/sys/fs/cgroup/a/memory.high"},
		{name: "v2 quota of a parent", gib: "1", files: map[string]string{"proc/self/cgroup": "0::/a/b/c\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/a/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/b/c/cpu.max": "400000 100000\n"},
			jobs: "1", why: "a CPU quota of 0.5 (/sys/fs/cgroup/a/cpu.max)"},
		{name: "v2 quota and a half", gib: "1", files: map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/cpu.max": "250000 100000\n"},
			jobs: "3", why: "a CPU quota of 2.5"},
		{name: "v2 group outside of what is mounted", gib: "1", files: map[string]string{"proc/self/cgroup": "0::/../../x\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/cpu.max": "150000 100000\n"},
			jobs: "2", why: "a CPU quota of 1.5"},
		{name: "v1 memory", gib: "3", files: map[string]string{"proc/self/cgroup": inCgroup1, "proc/self/mountinfo": cgroup1, "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000000000\n"},
			jobs: "2", why: "(limit of /sys/fs/cgroup/memory/memory.limit_in_bytes)"},
		{name: "v1 memory of a parent", gib: "3", files: map[string]string{"proc/self/cgroup": inCgroup1, "proc/self/mountinfo": cgroup1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.stat": "cache 1\nhierarchical_memory_limit 3221225472\nhierarchical_memsw_limit 1\n"},
			jobs: "1", why: "3.0 GiB of memory (limit of /sys/fs/cgroup/memory/memory.stat)"},
		{name: "v1 unlimited", gib: "3", files: map[string]string{"proc/self/cgroup": inCgroup1, "proc/self/mountinfo": cgroup1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
			jobs: "8", why: "8 cores, 64.0 GiB"},
		{name: "v1 quota", gib: "3", files: map[string]string{"proc/self/cgroup": inCgroup1, "proc/self/mountinfo": cgroup1,
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
			jobs: "1", why: "a CPU quota of 0.5"},
		{name: "v1 nested, all of it mounted", gib: "3", files: map[string]string{"proc/self/cgroup": "4:memory:/a/b/c\n1:cpu:/a/b\n", "proc/self/mountinfo": "3 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n4 1 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "10737418240\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"},
			jobs: "2", why: "a CPU quota of 2 (/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us), 10.0 GiB of memory (limit of /sys/fs/cgroup/memory/a/memory.limit_in_bytes)"},
		{name: "limits from outside", gib: "3", env: []string{"LIMITS=cpus 0.5 /sys/fs/cgroup/cpu.max\nmemory 9000000000 /sys/fs/cgroup/memory.max"},
			jobs: "1", why: "a CPU quota of 0.5 (/sys/fs/cgroup/cpu.max), 8.4 GiB of memory (limit of /sys/fs/cgroup/memory.max)"},
		{name: "told", gib: "3", env: []string{"JOBS=5", "LIMITS=cpus 0.5 x"}, jobs: "5", why: "compile jobs at once: 5, as --jobs says"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"proc/meminfo": "MemTotal:       67108864 kB\nMemFree: 1 kB\n"}
			maps.Copy(files, test.files)
			writeFiles(t, root, files)
			var out, why bytes.Buffer
			cmd := exec.Command("sh", script, test.gib)
			cmd.Env = append(os.Environ(), append(test.env, "ROOT="+root, "PATH="+programs+":"+os.Getenv("PATH"))...)
			cmd.Stdout, cmd.Stderr = &out, &why
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, why.String())
			}
			if got := strings.TrimSpace(out.String()); got != test.jobs || !strings.Contains(why.String(), test.why) {
				t.Errorf("%s jobs, %s\nwant %s, because of %s", got, why.String(), test.jobs, test.why)
			}
		})
	}

	// What ci asks of this machine for the group of an engine.
	root := t.TempDir()
	writeFiles(t, root, map[string]string{"proc/self/cgroup": "0::/user.slice/mine\n", "proc/self/mountinfo": cgroup2,
		"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/farm/memory.max": "5000000000\n", "sys/fs/cgroup/farm/one/cpu.max": "75000 50000\n", "sys/fs/cgroup/user.slice/memory.max": "1\n"})
	cmd := exec.Command("sh", script, "limits", "/farm/one")
	cmd.Env = append(os.Environ(), "ROOT="+root)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("cpus 1.5 /sys/fs/cgroup/farm/one/cpu.max\nmemory 5000000000 /sys/fs/cgroup/farm/memory.max\n", string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func writeFiles(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
