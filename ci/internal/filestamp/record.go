package filestamp

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// settled is how long ago a file's last change must be for its stamp to be noted: file systems count time in ticks of some
// milliseconds, and a second change in the same tick leaves the stamp as it is.
const settled = time.Second

// A Record is a file that keeps the stamps of files that were read and found right, so that the next command need not read
// them again. It goes by their base names, which must say what a file holds, as a digest does. Nothing is lost with it: a
// record that is missing, damaged or of other files only costs the reading. Any number of goroutines may use one.
type Record struct {
	path string

	mu      sync.Mutex
	stamps  map[string]string
	changed bool
}

// OpenRecord reads a record. A missing or unusable one is empty.
func OpenRecord(path string) *Record {
	r := &Record{path: path}
	if text, err := os.ReadFile(path); err != nil || json.Unmarshal(text, &r.stamps) != nil || r.stamps == nil {
		r.stamps = map[string]string{}
	}
	return r
}

// Check reports whether a file is right: it is the one that was right before, or read says so.
func (r *Record) Check(file string, read func() (bool, error)) (bool, error) {
	stamp, name := Of(file), filepath.Base(file)
	if stamp != "" && stamp == r.noted(name) {
		return true, nil
	}
	var before syscall.Stat_t
	noStat := syscall.Lstat(file, &before)
	right, err := read()
	if err == nil && right && noStat == nil && time.Since(time.Unix(before.Ctim.Unix())) > settled {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.stamps[name], r.changed = stamp, true
	}
	return right, err
}

func (r *Record) noted(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stamps[name]
}

// Save writes the record if it has new entries. In a read-only folder it does nothing.
func (r *Record) Save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.changed {
		return nil
	}
	text, err := json.Marshal(r.stamps)
	if err == nil {
		err = os.WriteFile(r.path, text, 0o644)
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return err
}
