package detect

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// triplets are Debian's names of the folders for an architecture, and machines ELF's.
var (
	triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
	machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
)

// systemFolders are where the dynamic loader looks without being told, and where it finds the driver's libraries on
// platforms whose containers do not always tell it.
func systemFolders() []string {
	triplet := triplets[runtime.GOARCH]
	return []string{"/lib/" + triplet, "/usr/lib/" + triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}

// environmentFolders are those of LD_LIBRARY_PATH.
func (d Detector) environmentFolders() []string {
	var folders []string
	for _, folder := range filepath.SplitList(d.Getenv("LD_LIBRARY_PATH")) {
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
	source         Source
}

// cLibraries learns them without running the libraries: those in these folders, else those that the loader finds.
func (d Detector) cLibraries(folders []string) cVersions {
	source := Source{Name: cLibrariesName}
	cache := d.loaderCache()
	newest := func(soname, prefix string) string {
		for _, folder := range folders {
			if version := d.newestVersion(filepath.Join(folder, soname), prefix); version != "" {
				return version
			}
		}
		candidates := cache[soname]
		for _, folder := range systemFolders() {
			candidates = append(candidates, filepath.Join(folder, soname))
		}
		for _, file := range candidates {
			if version := d.newestVersion(file, prefix); version != "" {
				return version
			}
		}
		return ""
	}
	glibc, glibcxx := newest("libc.so.6", "GLIBC_"), newest("libstdc++.so.6", "GLIBCXX_")
	switch {
	case glibc == "":
		source.Problem = "there is no GNU C library where the loader looks"
	case glibcxx == "":
		source.Problem = "there is no libstdc++.so.6 where the loader looks"
		fallthrough
	default:
		source.Gave = "glibc " + glibc
		if glibcxx != "" {
			source.Gave += ", GLIBCXX " + glibcxx
		}
	}
	return cVersions{glibc, glibcxx, source}
}

// newestVersion is the highest version with a prefix that a library of this machine defines, or nothing.
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

// loaderCache reads /etc/ld.so.cache: the paths of each soname, in the loader's order. The format is glibc's,
// https://sourceware.org/git/?p=glibc.git;a=blob;f=sysdeps/generic/dl-cache.h: a header, entries with offsets of two
// strings, and the strings. Files that older ldconfigs write have the older format in front of it.
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
