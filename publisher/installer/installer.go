// Package installer writes install.sh, which brings llcuda-fetch to machines without Go.
//
// ci's client command calls it. It takes the release and the two archives that were packaged for it, and returns a script
// that carries their digests, to be published beside them. The script's own text is install.sh; the tests run it as users
// do. The package downloads nothing and writes no file.
package installer

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Program is the file in an archive that the script installs.
const Program = "llcuda-fetch"

// Probe is the program beside it that asks CUDA for the GPUs, where an archive has one.
const Probe = "llcuda-probe"

// Archive is the name of the client's archive for an architecture by Go's name.
func Archive(arch string) string { return manifests.ClientName("linux", arch) }

// Architectures are those that the client is published for, by Go's names.
func Architectures() []string { return []string{"amd64", "arm64"} }

//go:embed install.sh
var script string

// plain are values that mean nothing else in single quotes, in a URL or in a message.
var plain = regexp.MustCompile(`^[A-Za-z0-9._:/@+-]+$`)

// Script is install.sh for the archives of a release, which lie in a folder by the names that Archive gives.
func Script(release string, dir *os.Root) ([]byte, error) {
	values := map[string]string{
		"RELEASE":   release,
		"DOWNLOADS": manifests.RepositoryURL + "/releases/download/" + release,
		"IDENTITY":  manifests.SignerIdentity,
		"ISSUER":    manifests.SignerIssuer,
	}
	for _, arch := range Architectures() {
		archive, files, err := digests(dir, Archive(arch))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", Archive(arch), err)
		}
		upper := strings.ToUpper(arch)
		values["ARCHIVE_"+upper], values["PROGRAM_"+upper], values["PROBE_"+upper] = archive, files[Program], cmp.Or(files[Probe], "none")
	}
	var pairs []string
	for name, value := range values {
		if !plain.MatchString(value) {
			return nil, fmt.Errorf("writing %s: the value of %s, %q, could mean something to a shell", manifests.InstallerName, name, value)
		}
		pairs = append(pairs, "@"+name+"@", value)
	}
	return []byte(strings.NewReplacer(pairs...).Replace(script)), nil
}

// digests are the sha256 of an archive, and of the programs in it.
func digests(dir *os.Root, name string) (archive string, files map[string]string, err error) {
	f, err := dir.Open(name)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	whole, files := sha256.New(), map[string]string{}
	packed := io.TeeReader(f, whole)
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		return "", nil, err
	}
	for entries := tar.NewReader(unpacked); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", nil, err
		}
		if entry.Name != Program && entry.Name != Probe {
			continue
		}
		inside := sha256.New()
		if _, err := io.Copy(inside, entries); err != nil {
			return "", nil, err
		}
		files[entry.Name] = hex.EncodeToString(inside.Sum(nil))
	}
	if files[Program] == "" {
		return "", nil, fmt.Errorf("it holds no %s", Program)
	}
	if _, err := io.Copy(io.Discard, packed); err != nil { // what follows the tar's end
		return "", nil, err
	}
	return hex.EncodeToString(whole.Sum(nil)), files, nil
}
