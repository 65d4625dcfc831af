// Package consoletest has a screen that tests look at.
package consoletest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// A Screen shows what a terminal would: text, and the few control sequences that live lines need. Others fail the test.
type Screen struct {
	T *testing.T

	mu     sync.Mutex
	lines  []string
	row    int
	column int
}

// Write takes what a program prints.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for text := string(p); text != ""; {
		var up int
		switch n, _ := fmt.Sscanf(text, "\x1b[%dA", &up); {
		case n == 1:
			_, text, _ = strings.Cut(text, "A")
			if s.row -= up; s.row < 0 {
				s.T.Errorf("the cursor leaves the screen before %q", text)
				s.row = 0
			}
		case strings.HasPrefix(text, "\x1b[J"):
			text = text[len("\x1b[J"):]
			if s.row < len(s.lines) {
				s.lines = append(s.lines[:s.row], s.lines[s.row][:min(s.column, len(s.lines[s.row]))])
			}
		case text[0] == '\r':
			s.column, text = 0, text[1:]
		case text[0] == '\n':
			s.row, s.column, text = s.row+1, 0, text[1:]
		case text[0] == '\x1b':
			s.T.Errorf("prints %q", text)
			return len(p), nil
		default:
			end := strings.IndexAny(text, "\r\n\x1b")
			if end < 0 {
				end = len(text)
			}
			s.put(text[:end])
			text = text[end:]
		}
	}
	return len(p), nil
}

func (s *Screen) put(text string) {
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, "")
	}
	if s.column < len(s.lines[s.row]) {
		s.T.Errorf("prints %q over %q", text, s.lines[s.row])
	}
	s.lines[s.row] += text
	s.column = len(s.lines[s.row])
}

// Lines are the lines on the screen, without an empty last one.
func (s *Screen) Lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := append([]string{}, s.lines...)
	if n := len(lines); n > 0 && lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return lines
}
