package detect

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// triplets are Debian's names of the folders for an architecture, and machines ELF's.
var (
	triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
	machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
)

// systemFolders are where the dynamic loader looks by default, and where the driver's libraries are
// on platforms whose containers do not always configure the loader.
func systemFolders() []string {
	triplet := triplets[runtime.GOARCH]
	return []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}

// environmentFolders are those of LD_LIBRARY_PATH.
func (d Detector) environmentFolders() []string {
	var folders []string
	for _, folder := range filepath.SplitList(d.getenv("LD_LIBRARY_PATH")) {
		if filepath.IsAbs(folder) {
			folders = append(folders, folder)
		}
	}
	return folders
}

// cLibrariesName is the name of the source.
const cLibrariesName = "libc.so.6 and libstdc++.so.6"

// cVersions are what the C and the C++ library define.
type cVersions struct {
	glibc, glibcxx string
	libstdcxx      string // the file, where one of the folders has it
	source         Source
}

// cLibraries learns them without running the libraries: those in these folders, else those that the
// loader finds.
func (d Detector) cLibraries(folders []string) cVersions {
	c := cVersions{source: Source{Name: cLibrariesName}}
	newest := func(soname, prefix string) (version, file string) {
		for i, file := range slices.Concat(joinEach(folders, soname), d.loaderFiles(soname)) {
			if version := d.newestVersion(file, prefix); version != "" {
				if i >= len(folders) {
					file = ""
				}
				return version, file
			}
		}
		return "", ""
	}
	c.glibc, _ = newest("libc.so.6", "GLIBC_")
	c.glibcxx, c.libstdcxx = newest("libstdc++.so.6", "GLIBCXX_")
	switch {
	case c.glibc == "":
		c.source.Problem = "there is no GNU C library where the loader looks"
	case c.glibcxx == "":
		c.source.Problem = "there is no libstdc++.so.6 where the loader looks"
		fallthrough
	default:
		c.source.Gave = "glibc " + c.glibc
		if c.glibcxx != "" {
			c.source.Gave += ", GLIBCXX " + c.glibcxx
		}
		if c.libstdcxx != "" {
			c.source.Gave += " from " + c.libstdcxx
		}
	}
	return c
}

// joinEach are the paths of a file in each of some folders.
func joinEach(folders []string, name string) []string {
	var files []string
	for _, folder := range folders {
		files = append(files, filepath.Join(folder, name))
	}
	return files
}

// loaderFiles is where the dynamic loader finds a library without LD_LIBRARY_PATH, in its order.
func (d Detector) loaderFiles(soname string) []string {
	return slices.Concat(d.loaderCache()[soname], joinEach(systemFolders(), soname), joinEach(d.nixFolders(), soname))
}

// nixFolders are where the loader of nix-ld looks, which NixOS has for programs that were built
// elsewhere: beside the loader that it starts, and in its list.
// https://github.com/nix-community/nix-ld
func (d Detector) nixFolders() []string {
	const standard = "/run/current-system/sw/share/nix-ld/lib"
	folders := append(filepath.SplitList(d.getenv("NIX_LD_LIBRARY_PATH")), standard)
	for _, loader := range []string{d.getenv("NIX_LD"), standard + "/ld.so"} {
		if real, err := filepath.EvalSymlinks(d.path(loader)); err == nil && loader != "" {
			folders = append(folders, filepath.Dir("/"+strings.TrimPrefix(real, filepath.Clean(d.Root))))
		}
	}
	return folders
}

// newestVersion is the highest version with a prefix that a library of this machine defines, or
// nothing.
func (d Detector) newestVersion(file, prefix string) string {
	lib, err := elf.Open(d.path(file))
	if err != nil {
		return ""
	}
	defer lib.Close()
	if lib.Class != elf.ELFCLASS64 || lib.Machine != machines[runtime.GOARCH] {
		return ""
	}
	versions, err := lib.DynamicVersions()
	if err != nil {
		return ""
	}
	newest := ""
	for _, v := range versions {
		if number, ok := strings.CutPrefix(v.Name, prefix); ok && matrix.IsVersion(number) && matrix.CompareVersions(number, newest) > 0 {
			newest = number
		}
	}
	return newest
}

// loaderCache reads /etc/ld.so.cache: the paths of each soname, in the loader's order. The format
// is glibc's, https://sourceware.org/git/?p=glibc.git;a=blob;f=sysdeps/generic/dl-cache.h: a
// header, entries with offsets of two strings, and the strings. Files that older ldconfigs write
// have the older format in front of it.
func (d Detector) loaderCache() map[string][]string {
	const (
		magic      = "glibc-ld.so.cache1.1"
		headerSize = 48
		entrySize  = 24
		maxSize    = 64 << 20
	)
	path := d.path("etc/ld.so.cache")
	if info, err := os.Stat(path); err != nil || info.Size() > maxSize {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	at := bytes.Index(data, []byte(magic))
	if at < 0 {
		return nil
	}
	data = data[at:]
	if len(data) < headerSize {
		return nil
	}
	count := int(binary.LittleEndian.Uint32(data[len(magic):]))
	found := map[string][]string{}
	text := func(offset uint32) string {
		if int64(offset) >= int64(len(data)) {
			return ""
		}
		s, _, _ := bytes.Cut(data[offset:], []byte{0})
		return string(s)
	}
	for i := range count {
		start := headerSize + i*entrySize
		if start+entrySize > len(data) {
			break
		}
		entry := data[start:]
		name, file := text(binary.LittleEndian.Uint32(entry[4:])), text(binary.LittleEndian.Uint32(entry[8:]))
		if name != "" && filepath.IsAbs(file) {
			found[name] = append(found[name], file)
		}
	}
	return found
}

// checkLibrary says why a file is not the library of this name for this machine.
func checkLibrary(file, soname string) error {
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	for _, path := range []string{file, real} {
		for part := range strings.SplitSeq(path, string(filepath.Separator)) {
			if part == "stubs" {
				return fmt.Errorf("%s is a stub to link against", file)
			}
		}
	}
	lib, err := elf.Open(real)
	if err != nil {
		return err
	}
	defer lib.Close()
	if lib.Type != elf.ET_DYN || lib.Class != elf.ELFCLASS64 || lib.Machine != machines[runtime.GOARCH] {
		return fmt.Errorf("%s is not for this machine", file)
	}
	names, err := lib.DynString(elf.DT_SONAME)
	if err != nil {
		return err
	}
	if len(names) != 1 || names[0] != soname {
		return fmt.Errorf("%s calls itself %q", file, names)
	}
	return nil
}
