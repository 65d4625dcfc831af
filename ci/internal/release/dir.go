// Package release is the folder of one release, and everything that is done with it between the
// packing of its archives and its publication: describing, signing, verifying, and comparing it
// with what the public can download.
//
// The commands of ci call it. In flow a folder, what to check it against and what to sign with; out
// flow values, findings and typed errors. The package never prints, knows no flags, and reads no
// environment.
//
//	archives ──Describe──▶ manifest.json, SHA256SUMS ──Sign──▶ bills of materials, provenance, signature
//	folder   ──Verify──▶ Report
//	address  ──Public.Resolve, Download──▶ folder
package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
)

// LogsName is the folder in a release folder that is not part of the release.
const LogsName = "logs"

// A Dir is a folder with the files of one release.
type Dir string

// Path returns the path of a file of the release.
func (d Dir) Path(name string) string { return filepath.Join(string(d), name) }

// Names lists the contents of the folder, except the logs.
func (d Dir) Names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != LogsName || !entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// Contents sorts the names in the folder into archives and other assets. It refuses a folder that
// holds anything else.
func (d Dir) Contents() (archives, beside []string, err error) {
	names, err := d.Names()
	if err != nil {
		return nil, nil, err
	}
	var foreign []string
	for _, name := range names {
		switch {
		case manifests.IsArchive(name):
			archives = append(archives, name)
		case manifests.KindOf(name) != "":
			beside = append(beside, name)
		case !manifests.IsDocument(name):
			foreign = append(foreign, name)
		}
	}
	if len(foreign) > 0 {
		return nil, nil, failure.Refuse(fmt.Errorf("describing %s: not part of a release: %s", d, strings.Join(foreign, ", ")), "move it out of the folder")
	}
	if len(archives) == 0 {
		return nil, nil, d.noBundle()
	}
	return archives, beside, nil
}

func (d Dir) noBundle() error {
	return failure.Input(fmt.Errorf("describing %s: it holds no bundle", d), "go run ./ci build makes bundles")
}

// Foreign are the names of what has no place in the folder: what is neither a file of a release nor
// an unfinished one, and folders.
func (d Dir) Foreign() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var foreign []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() && name != LogsName || !entry.IsDir() && !isPart(name) && !isPartial(name) {
			foreign = append(foreign, name)
		}
	}
	return foreign, nil
}

// partialForm is how WriteFile and the bundler name a file that is not complete yet.
var partialForm = regexp.MustCompile(`^\.(.+)\.[0-9]+(?:-[0-9]+)?\.partial$`)

// probeName is the name of the file by which TryWriting tries the folder.
const probeName = "writable"

// isPartial reports whether a name is that of an unfinished file of a release.
func isPartial(name string) bool {
	match := partialForm.FindStringSubmatch(name)
	return match != nil && (match[1] == probeName || isPart(match[1]))
}

// isPart reports whether a name is that of a file of a release.
func isPart(name string) bool { return manifests.KindOf(name) != "" || manifests.IsDocument(name) }

// TryWriting makes the folder and a file in it, which it removes again.
func (d Dir) TryWriting() error {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	probe, err := os.CreateTemp(string(d), "."+probeName+".*.partial")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// removePartials removes what killed processes left unfinished, whatever its age. The caller holds
// the folder's lock.
func (d Dir) removePartials() error {
	names, err := d.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if isPartial(name) {
			if err := os.Remove(d.Path(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock keeps other processes from writing to the folder until unlock.
func (d Dir) lock() (unlock func(), err error) {
	unlock, ok, err := bundler.TryLockFolder(string(d))
	if err == nil && !ok {
		err = fmt.Errorf("%s is in use by another process, which builds into it or signs it", d)
	}
	return unlock, err
}

// Manifest reads the folder's manifest.json.
func (d Dir) Manifest() (manifests.Release, error) {
	again := "go run ./ci manifest " + string(d) + " writes it"
	release, err := ReadManifest(d.Path(manifests.ManifestName), again+" again; if another version of ci made the release, use that one")
	if errors.Is(err, fs.ErrNotExist) {
		return manifests.Release{}, failure.Input(fmt.Errorf("%s does not say of which release it is: it has no %s", d, manifests.ManifestName), again)
	}
	return release, err
}

// ReadManifest reads a manifest.json that need not lie in a release's folder. One that cannot be
// read is a *failure.Refusal with the hint.
func ReadManifest(file, hint string) (manifests.Release, error) {
	f, err := os.Open(file)
	if err != nil {
		return manifests.Release{}, err
	}
	defer f.Close()
	release, err := manifests.Decode(f)
	if err != nil {
		return manifests.Release{}, failure.Refuse(fmt.Errorf("reading %s: %w", file, err), hint)
	}
	return release, nil
}

// hintOf returns an error's hint; empty if it has none.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

func isAs[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// exists reports whether anything of that name exists.
func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// WriteFile writes beside the target, syncs and renames, so that readers see the old file or the
// new one.
func WriteFile(name string, data []byte) error {
	err := farm.ReplaceFile(name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// sumOf hashes a file.
func sumOf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
