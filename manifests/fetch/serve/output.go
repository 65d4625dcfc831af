package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	// ringLines is how many lines of what a server prints are kept, and tailLines how many of them
	// are reported.
	ringLines, tailLines = 200, 40
	// maxLine bounds a line that is kept, in bytes: a server may print without a newline.
	maxLine = 1000
	// maxLogs are kept in a folder of logs.
	maxLogs = 10
)

// An output is what a server prints: all of it in a file, and its last lines. A file that cannot be written, on a full
// disk, is not a reason to stop a server, or to leave its pipe unread.
type output struct {
	file *os.File // nil if there is none

	mu    sync.Mutex
	lines []string
	line  []byte // the one that is being written
}

// output opens the log that the server asks for.
func (s Server) output(on func(Event)) (*output, error) {
	if s.Log != "" {
		file, err := os.OpenFile(s.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, fmt.Errorf("opening the log: %w", err)
		}
		return &output{file: file}, nil
	}
	if s.Logs == "" {
		return &output{}, nil
	}
	file, err := newLog(s.Logs)
	if err != nil {
		on(Warning{fmt.Sprintf("keeping no log of the server: %v", err)})
		return &output{}, nil
	}
	pruneLogs(s.Logs, s.Records)
	return &output{file: file}, nil
}

// newLog makes server-PID.log, or, where another container left that one, server-PID-2.log. No other user needs to read
// what people ask a model.
func newLog(dir string) (*os.File, error) {
	for n := 1; ; n++ {
		name := fmt.Sprintf("server-%d.log", os.Getpid())
		if n > 1 {
			name = fmt.Sprintf("server-%d-%d.log", os.Getpid(), n)
		}
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return file, err
		}
	}
}

// pruneLogs removes all but the newest logs, and none that a server writes.
func pruneLogs(dir, records string) {
	entries, _ := os.ReadDir(dir)
	type log struct {
		path string
		info fs.FileInfo
	}
	var logs []log
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && strings.HasPrefix(entry.Name(), "server-") && strings.HasSuffix(entry.Name(), ".log") {
			logs = append(logs, log{filepath.Join(dir, entry.Name()), info})
		}
	}
	slices.SortFunc(logs, func(a, b log) int { return b.info.ModTime().Compare(a.info.ModTime()) })
	inUse := logsInUse(records)
	for _, l := range logs[min(len(logs), maxLogs):] {
		if !slices.Contains(inUse, l.path) {
			_ = os.Remove(l.path) // of another user
		}
	}
}

// Path is the file's, or empty.
func (o *output) Path() string {
	if o.file == nil {
		return ""
	}
	path, err := filepath.Abs(o.file.Name())
	if err != nil {
		return o.file.Name()
	}
	return path
}

func (o *output) Close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// Write takes what a server prints.
func (o *output) Write(data []byte) (int, error) {
	if o.file != nil {
		_, _ = o.file.Write(data)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := data
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		o.line = append(o.line, line[:min(len(line), max(0, maxLine-len(o.line)))]...)
		if !whole {
			return len(data), nil
		}
		o.add()
		rest = after
	}
}

func (o *output) add() {
	if len(o.lines) == ringLines {
		o.lines = slices.Delete(o.lines, 0, 1)
	}
	o.lines = append(o.lines, strings.ToValidUTF8(strings.TrimRight(string(o.line), "\r"), "\uFFFD"))
	o.line = o.line[:0]
}

// tail are the last lines, at most n, an unfinished one included.
func (o *output) tail(n int) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.line) > 0 {
		o.add()
	}
	return slices.Clone(o.lines[max(0, len(o.lines)-n):])
}

// clear forgets the lines of a server before this one.
func (o *output) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines, o.line = []string{}, nil
}
