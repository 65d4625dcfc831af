package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/home"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// markerText is what home.Marker in a folder says. Nothing of a folder without one is touched,
// unless the folder is empty.
const markerText = "llcuda-fetch keeps its installations in this folder, format 1\n"

// lastNames are the files beside the store's folders. They are removed last.
var lastNames = []string{home.Marker, lockName, lockName + heldSuffix, lockName + heldSuffix + stealSuffix}

// folders are the folders in a store, and which of the names in them are the store's own. Anything
// else there belongs to a user: it is never removed, nor followed if it is a link.
var folders = map[string]func(s *Store, name string, entry fs.DirEntry) bool{
	downloadsDir: ownNames(`[0-9a-f]{64}\.partial`),
	// What os.MkdirTemp made for the store, and records on their way to their place.
	stagingDir:  ownNames(`(?:llcuda-(?:bins|cudart)-[A-Za-z0-9._-]+|old|release|links|link|install|pointer|trial)-[0-9]{5,}|install\.json|left-out\.json`),
	bundlesDir:  ownNames(`llcuda-bins-.+-[0-9a-f]{12}`),
	runtimesDir: ownNames(`llcuda-cudart-.+-[0-9a-f]{12}`),
	linksDir:    ownNames(`[0-9a-f]{12}`),
	releasesDir: func(s *Store, name string, entry fs.DirEntry) bool {
		return entry.IsDir() && s.holdsOnly(releasesDir, name, documentNames)
	},
	pointersDir: ownNames(`[0-9a-f]{32}\.json`),
	installsDir: func(s *Store, name string, entry fs.DirEntry) bool {
		return number.MatchString(name) && entry.IsDir() && s.holdsOnly(installsDir, name, installNames)
	},
	logsDir:    ownNames(`server-[0-9]+(?:-[0-9]+)?\.log`),
	serversDir: ownNames(`[0-9]+-[0-9a-f]{0,8}-[0-9]*\.json(?:\.new)?`),
	launch.CurrentName: func(s *Store, name string, entry fs.DirEntry) bool {
		return entry.Type()&fs.ModeSymlink != 0 && s.installAt(name) != 0
	},
}

// laterFolders are there when something is installed, or was served.
var laterFolders = []string{launch.CurrentName, logsDir, serversDir}

var (
	number        = regexp.MustCompile(`^[1-9][0-9]*$`)
	documentNames = []string{manifests.ManifestName, manifests.SumsName, manifests.SignatureName}
	installNames  = []string{recordName, launch.StartName, launch.BundleName}
)

// ownNames returns a function that reports whether an entry has a name of this form and is of the
// right type: a file where the name has a file's extension, else a folder.
func ownNames(form string) func(*Store, string, fs.DirEntry) bool {
	whole := regexp.MustCompile(`^(?:` + form + `)$`)
	return func(_ *Store, name string, entry fs.DirEntry) bool {
		file := slices.Contains([]string{".partial", ".json", ".new", ".log"}, filepath.Ext(name))
		return whole.MatchString(name) && (file && entry.Type().IsRegular() || !file && entry.IsDir())
	}
}

// holdsOnly reports whether a folder of the store has some of these names and no other.
func (s *Store) holdsOnly(dir, name string, names []string) bool {
	entries, err := os.ReadDir(s.path(dir, name))
	return err == nil && len(entries) > 0 && !slices.ContainsFunc(entries, func(entry fs.DirEntry) bool { return !slices.Contains(names, entry.Name()) })
}

// listOwn are the names in a folder of the store that are the store's, as paths relative to it. A
// folder that does not exist, or is a link, has none.
func (s *Store) listOwn(dir string) ([]string, error) {
	if info, err := os.Lstat(s.path(dir)); err != nil || !info.IsDir() {
		return nil, ignoreMissing(err)
	}
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, entry := range entries {
		if folders[dir](s, entry.Name(), entry) {
			list = append(list, filepath.Join(dir, entry.Name()))
		}
	}
	return list, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// A ForeignError is a folder that is not a store, or not all of it.
type ForeignError struct{ Path, Problem, Way string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("opening the store: %s %s", e.Path, e.Problem)
}

// Hint says what helps.
func (e *ForeignError) Hint() string { return e.Way }

// create makes sure that the folder exists, with its marker. A folder with other uses stays as it
// is.
func (s *Store) create() error {
	if user, err := os.UserHomeDir(); err == nil && isSameFolder(user, s.Home) || isSameFolder("/", s.Home) {
		return s.foreignError("is a folder for more than a store")
	}
	if err := os.MkdirAll(s.Home, 0o775); err != nil { // not world-writable, whatever the umask is
		return err
	}
	marked, err := s.Marked()
	if err != nil || marked {
		return err
	}
	entries, err := os.ReadDir(s.Home)
	if err != nil {
		return err
	}
	if len(entries) > 0 && !slices.ContainsFunc(entries, func(entry fs.DirEntry) bool { return entry.Name() == home.Marker }) { // another process was faster
		return s.foreignError("is not empty, and not a store of llcuda-fetch")
	}
	marker, err := os.OpenFile(s.path(home.Marker), os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = marker.WriteString(markerText)
	return errors.Join(err, marker.Sync(), marker.Close())
}

// ServerFolders are the folders for the logs of servers and for what is kept of those that run.
// They are made, and the store with them, if need be: a server of the user's own needs no
// installation.
func (s *Store) ServerFolders() (logs, records string, err error) {
	if err := s.create(); err != nil {
		return "", "", homeError("making the store", s.Home, err)
	}
	for _, dir := range []string{logsDir, serversDir} {
		if err := os.Mkdir(s.path(dir), 0o775); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", "", homeError("making the store", s.Home, err)
		}
		if info, err := os.Lstat(s.path(dir)); err != nil || !info.IsDir() {
			return "", "", errors.Join(err, notFolder(s.path(dir)))
		}
	}
	return s.path(logsDir), s.path(serversDir), nil
}

func isSameFolder(a, b string) bool {
	one, errOne := os.Stat(a)
	other, errOther := os.Stat(b)
	return errOne == nil && errOther == nil && os.SameFile(one, other)
}

func (s *Store) foreignError(problem string) error {
	return &ForeignError{s.Home, problem, "--home (LLCUDA_HOME) chooses the folder: " + filepath.Join(s.Home, "llcuda") + " would do; nothing was changed"}
}

// Marked reports whether the folder is a store. Its error is one of a store that this program does
// not know how to use.
func (s *Store) Marked() (bool, error) {
	info, err := os.Lstat(s.path(home.Marker))
	switch {
	case err != nil:
		return false, ignoreMissing(err)
	case !info.Mode().IsRegular():
		return false, &ForeignError{s.path(home.Marker), "is not a file, and the store has one there", "--home (LLCUDA_HOME) chooses another folder"}
	}
	text, err := os.ReadFile(s.path(home.Marker))
	if err != nil {
		return false, err
	}
	// A process that was killed while it made the marker left the beginning of it.
	if !strings.HasPrefix(markerText, string(text)) {
		return false, &ForeignError{s.path(home.Marker), "says that it is of another llcuda-fetch: " + strings.TrimSpace(string(text)), "a newer llcuda-fetch may read it; --home (LLCUDA_HOME) chooses another folder"}
	}
	return string(text) == markerText, nil
}

// notFolder is the error of what lies where the store has a folder.
func notFolder(path string) error {
	return &ForeignError{path, "is not a folder, and the store has one there", "remove it, or choose another folder by --home (LLCUDA_HOME)"}
}

// A DistrustError reports a store that another user may write to.
type DistrustError struct{ Path, Why string }

func (e *DistrustError) Error() string {
	return fmt.Sprintf("trusting the store: %s %s: whoever may write there decides what runs as this user", e.Path, e.Why)
}

// Hint says what helps.
func (e *DistrustError) Hint() string {
	return "--home (LLCUDA_HOME) selects another folder; if this one is as it should be, give --trust-home (LLCUDA_TRUST_HOME=1)"
}

// Trusted says why programs of the store should not be run; nil if they may.
func (s *Store) Trusted() error {
	d, distrusted := launch.Distrust(s.Home)
	switch {
	case distrusted && d.Why == "":
		return notFolder(d.Path)
	case distrusted && !s.TrustAll:
		return &DistrustError{d.Path, d.Why}
	}
	return nil
}

// clean makes the store's folders and removes what the store left under staging, which no other
// process uses while the lock is held.
func (l *Locked) clean() error {
	if marked, err := l.Marked(); err != nil || !marked {
		return errors.Join(err, &ForeignError{l.Home, "was removed meanwhile", "run it again"})
	}
	for dir := range folders {
		info, err := os.Lstat(l.path(dir))
		switch {
		case errors.Is(err, fs.ErrNotExist) && !slices.Contains(laterFolders, dir):
			err = os.Mkdir(l.path(dir), 0o775)
		case err == nil && !info.IsDir():
			err = notFolder(l.path(dir))
		}
		if err := ignoreMissing(err); err != nil {
			return err
		}
	}
	left, err := l.listOwn(stagingDir)
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.RemoveAll(l.path(path)); err != nil {
			return err
		}
	}
	return nil
}

// Contents are what a store's folder holds.
type Contents struct {
	// Own is what the store made, and Foreign what it did not; both relative to the store.
	Own     []Item
	Foreign []string
}

// Contents lists everything in the store.
func (s *Store) Contents() (Contents, error) {
	var c Contents
	if marked, err := s.Marked(); err != nil || !marked {
		if err == nil && !s.isEmpty(s.Home) {
			err = s.foreignError("is not a store of llcuda-fetch")
		}
		return c, err
	}
	top, err := os.ReadDir(s.Home)
	if err != nil {
		return c, err
	}
	for _, entry := range top {
		name := entry.Name()
		if slices.Contains(lastNames, name) {
			continue
		}
		if folders[name] == nil || !entry.IsDir() {
			c.Foreign = append(c.Foreign, name)
			continue
		}
		own, err := s.listOwn(name)
		if err != nil {
			return c, err
		}
		entries, err := os.ReadDir(s.path(name))
		if err != nil {
			return c, err
		}
		for _, entry := range entries {
			path := filepath.Join(name, entry.Name())
			if slices.Contains(own, path) {
				c.Own = append(c.Own, Item{Path: path, Size: diskUse(s.path(path))})
			} else {
				c.Foreign = append(c.Foreign, path)
			}
		}
	}
	return c, nil
}

// Exists reports whether the folder is a store, with something in it or not.
func (s *Store) Exists() bool {
	marked, err := s.Marked()
	return marked && err == nil
}

func (s *Store) isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0
}

// Uninstall removes everything that the store made, and finally the store itself. Files that are
// not the store's stay, in a folder that is no longer a store.
func (l *Locked) Uninstall() (Contents, error) {
	c, err := l.Contents()
	if err != nil {
		return c, err
	}
	// What leads to programs is removed first, so that nothing that is only partly removed is ever
	// current.
	slices.SortStableFunc(c.Own, func(a, b Item) int { return ranksFirst(b) - ranksFirst(a) })
	for _, item := range c.Own {
		if err := l.discard(l.path(item.Path)); err != nil {
			return c, err
		}
	}
	for dir := range folders {
		if l.isEmpty(l.path(dir)) {
			if err := ignoreMissing(os.Remove(l.path(dir))); err != nil {
				return c, err
			}
		}
	}
	for _, name := range lastNames {
		if err := ignoreMissing(os.Remove(l.path(name))); err != nil {
			return c, err
		}
	}
	home, err := filepath.EvalSymlinks(l.Home)
	if err == nil && l.isEmpty(home) {
		err = ignoreMissing(os.Remove(home))
	}
	return c, err
}

// ranksFirst is 1 for what leads to programs.
func ranksFirst(item Item) int {
	if filepath.Dir(item.Path) == launch.CurrentName {
		return 1
	}
	return 0
}
