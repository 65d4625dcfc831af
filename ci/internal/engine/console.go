package engine

import (
	"bytes"
	"regexp"
	"strconv"
	"sync"
)

// console takes what the Dagger command line writes about a session and gives every line of
// the running command's own output to a listener. Dagger's plain form marks such a line by a
// span number, the time since the command's start and a bar:
//
//	12  :   [34.5s] | [17/143] Building CUDA object …
//
// It is the only live view of a running command that a Go client has. Everything else in the
// stream is Dagger's account of its own calls.
type console struct {
	mu       sync.Mutex
	partial  []byte
	listener func(line string)
}

var (
	outputLine  = regexp.MustCompile(`^\d+\s*: (?:│ )*\[[0-9][0-9a-z.]*\] \| ?(.*)$`)
	sessionLine = regexp.MustCompile(`^(engine|cloud) (name|url)=`) // about the session itself
	ansiCode    = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
	ninjaLine   = regexp.MustCompile(`^\[(\d+)/(\d+)\] `)
)

// listen sends output lines to f until the next call; nil drops them.
func (c *console) listen(f func(line string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listener = f
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = append(c.partial, p...)
	for {
		end := bytes.IndexByte(c.partial, '\n')
		if end < 0 {
			return len(p), nil
		}
		line := ansiCode.ReplaceAll(c.partial[:end], nil)
		c.partial = c.partial[end+1:]
		match := outputLine.FindSubmatch(line)
		if match == nil || c.listener == nil || sessionLine.Match(match[1]) {
			continue
		}
		c.listener(string(match[1]))
	}
}

// ninjaProgress reads "[done/total] …", the form that stages/stage.sh gives NINJA_STATUS.
func ninjaProgress(line string) (done, total int, ok bool) {
	match := ninjaLine.FindStringSubmatch(line)
	if match == nil {
		return 0, 0, false
	}
	done, _ = strconv.Atoi(match[1])
	total, _ = strconv.Atoi(match[2])
	return done, total, true
}
