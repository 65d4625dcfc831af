package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An identity tells a process from all others of the same boot and PID namespace: numbers of processes are used again, but
// not within one tick of the clock. What the process runs tells nothing more, and changes where a script starts the server
// by exec.
type identity struct {
	PID  int    `json:"pid"`
	Born string `json:"start"` // in ticks since the boot: field 22 of /proc/PID/stat, proc_pid_stat(5)
}

// identify is the identity of the process that has a number now; ok is false where none has.
func identify(pid int) (i identity, ok bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return identity{}, false
	}
	// The second field is the program's name in parentheses, in which anything may be.
	const state, born = 0, 19
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) <= born || fields[state] == "Z" || fields[state] == "X" {
		return identity{}, false
	}
	return identity{pid, fields[born]}, true
}

func (i identity) runs() bool {
	now, ok := identify(i.PID)
	return ok && now == i
}

// A record is what is kept of a server while it runs.
type record struct {
	Boot       string   `json:"boot"`
	Namespace  string   `json:"pid_namespace"`
	Supervisor identity `json:"supervisor"`
	Server     identity `json:"server"`
	Log        string   `json:"log"`
}

// place is the boot and the namespace in which numbers of processes count.
func place() (boot, namespace string) {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	namespace, _ = os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(data)), namespace
}

// recordName is the file of this supervisor's server.
func recordName(dir string) string {
	boot, namespace := place()
	return filepath.Join(dir, fmt.Sprintf("%d-%.8s-%s.json", os.Getpid(), boot, strings.Trim(namespace, "pid:[]")))
}

// keep writes the record of a server.
func keep(dir string, pid int, log string) error {
	r := record{Log: log}
	r.Boot, r.Namespace = place()
	r.Supervisor, _ = identify(os.Getpid())
	r.Server, _ = identify(pid)
	return write(recordName(dir), r)
}

func write(name string, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(name+".new", append(data, '\n'), 0o600), os.Rename(name+".new", name))
}

func forget(dir string) { _ = os.Remove(recordName(dir)) }

// strangerAge is how long records of other boots and containers are kept, as it cannot be determined from here whether
// their processes still run. Losing a record costs only the last of three safety nets.
const strangerAge = 30 * 24 * time.Hour

// clearAway kills the servers whose supervisor is gone, and removes their records.
func clearAway(dir string) {
	boot, namespace := place()
	for path, r := range records(dir) {
		switch {
		case r.Boot != boot || r.Namespace != namespace:
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > strangerAge {
				_ = os.Remove(path)
			}
			continue
		case r.Supervisor.runs():
			continue
		case r.Server.runs():
			_ = unix.Kill(-r.Server.PID, unix.SIGKILL)
		}
		_ = os.Remove(path)
	}
}

// logsInUse are the logs of servers that run, as far as that can be told.
func logsInUse(dir string) []string {
	var logs []string
	for _, r := range records(dir) {
		logs = append(logs, r.Log)
	}
	return logs
}

// records are the user's own: another user who may write there must not be able to get processes of
// this user killed.
func records(dir string) map[string]record {
	list := map[string]record{}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		info, err := entry.Info()
		if err != nil || filepath.Ext(path) != ".json" || !info.Mode().IsRegular() || !own(info) {
			continue
		}
		var r record
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &r) == nil && r.Server.PID > 1 {
			list[path] = r
		}
	}
	return list
}

func own(info fs.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Geteuid()
}
