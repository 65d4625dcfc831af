// Package measure says how far a piece of work is, and writes sizes and times for people.
//
// Every package that moves bytes reports a Progress, and every message, table and page writes sizes with Bytes and
// times with Time. It holds no state and imports the standard library alone.
package measure

import (
	"fmt"
	"time"
)

// A Progress is how far the transfer of one file is, or other work, of which only Done and Total tell.
type Progress struct {
	Name        string
	Done, Total int64  // bytes, where nothing else is counted; Total is negative if it is not known
	From        int64  // bytes that an earlier run brought
	Source      string // address of the server, without its password; empty for bytes of an earlier run
	Slow        bool   // the server gave less lately than the caller expects
}

// Whole reports whether everything is there.
func (p Progress) Whole() bool { return p.Total >= 0 && p.Done >= p.Total }

// Bytes is a size for people: 812 B, 29.6 MB, 1.2 GB.
func Bytes(n int64) string {
	const step = 1000
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	const rounds = step - 0.05 // from here on %.1f prints 1000.0
	value, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if value /= step; value < rounds {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// Time is a duration for people: 4.2s, 48s, 3m07s, 1h02m.
func Time(d time.Duration) string {
	seconds, minutes := int(d.Round(time.Second).Seconds()), int(d.Round(time.Minute).Minutes())
	switch {
	case d.Round(100*time.Millisecond) < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case seconds < 60:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case seconds < 60*60:
		return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
	}
	return fmt.Sprintf("%dh%02dm", minutes/60, minutes%60)
}
