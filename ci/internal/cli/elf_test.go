package cli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// elfFile is a program or library with nothing in it but what the audit reads.
type elfFile struct {
	soname      string
	needed      []string
	runPath     string
	interpreter string
	versions    []version // what it needs of the system
	fatbin      []byte    // device code, with the record that leads to it
}

// version is a symbol version that a library of the system must have.
type version struct{ library, name string }

// system is what everything in a bundle needs.
func system() []version {
	return []version{{"libc.so.6", "GLIBC_2.28"}, {"libstdc++.so.6", "GLIBCXX_3.4.25"}}
}

// bytes lays the file out: header, program headers, the sections' contents, the
// section headers. Addresses are offsets.
func (f elfFile) bytes() []byte {
	const headerSize, segmentSize, sectionSize = 64, 56, 64
	names, strs := &stringTable{}, &stringTable{}
	var dynamic bytes.Buffer
	tag := func(tag elf.DynTag, value uint64) {
		binary.Write(&dynamic, binary.LittleEndian, []uint64{uint64(tag), value})
	}
	for _, name := range f.needed {
		tag(elf.DT_NEEDED, strs.add(name))
	}
	if f.soname != "" {
		tag(elf.DT_SONAME, strs.add(f.soname))
	}
	if f.runPath != "" {
		tag(elf.DT_RUNPATH, strs.add(f.runPath))
	}
	tag(elf.DT_NULL, 0)

	var needs bytes.Buffer
	for i, v := range f.versions {
		const needSize, auxSize = 16, 16
		next := uint32(needSize + auxSize)
		if i == len(f.versions)-1 {
			next = 0
		}
		binary.Write(&needs, binary.LittleEndian, elfVerneed{1, 1, uint32(strs.add(v.library)), needSize, next})
		binary.Write(&needs, binary.LittleEndian, elfVernaux{Other: uint16(2 + i), Name: uint32(strs.add(v.name))})
	}

	segments := []elf.Prog64{{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W)}}
	if f.interpreter != "" {
		segments = append(segments, elf.Prog64{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R)})
	}
	var body bytes.Buffer
	start := uint64(headerSize + segmentSize*len(segments))
	sections := []elf.Section64{{}}
	place := func(name string, kind elf.SectionType, link uint32, data []byte) uint64 {
		for body.Len()%16 != 0 {
			body.WriteByte(0)
		}
		at := start + uint64(body.Len())
		sections = append(sections, elf.Section64{
			Name: uint32(names.add(name)), Type: uint32(kind), Flags: uint64(elf.SHF_ALLOC),
			Addr: at, Off: at, Size: uint64(len(data)), Link: link, Addralign: 16,
		})
		body.Write(data)
		return at
	}
	const strtab = 1 // the index of the first section placed
	place(".dynstr", elf.SHT_STRTAB, 0, strs.data())
	place(".dynamic", elf.SHT_DYNAMIC, strtab, dynamic.Bytes())
	if len(f.versions) > 0 {
		place(".dynsym", elf.SHT_DYNSYM, strtab, make([]byte, elf.Sym64Size)) // the first symbol is always empty
		place(".gnu.version", elf.SHT_GNU_VERSYM, strtab, make([]byte, 2))
		place(".gnu.version_r", elf.SHT_GNU_VERNEED, strtab, needs.Bytes())
	}
	if f.interpreter != "" {
		at := place(".interp", elf.SHT_PROGBITS, 0, []byte(f.interpreter+"\x00"))
		segments[1].Off, segments[1].Filesz = at, uint64(len(f.interpreter)+1)
	}
	if f.fatbin != nil {
		code := place(".nv_fatbin", elf.SHT_PROGBITS, 0, f.fatbin)
		var record bytes.Buffer
		binary.Write(&record, binary.LittleEndian, []uint32{0x466243B1, 1})
		binary.Write(&record, binary.LittleEndian, []uint64{code, 0})
		place(".nvFatBinSegment", elf.SHT_PROGBITS, 0, record.Bytes())
	}
	place(".shstrtab", elf.SHT_STRTAB, 0, names.data())
	// The table lacks its own name, which was added while it was placed.
	last := &sections[len(sections)-1]
	extra := names.data()[last.Size:]
	body.Write(extra)
	last.Size += uint64(len(extra))

	header := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: headerSize, Shoff: start + uint64(body.Len()), Ehsize: headerSize,
		Phentsize: segmentSize, Phnum: uint16(len(segments)),
		Shentsize: sectionSize, Shnum: uint16(len(sections)), Shstrndx: uint16(len(sections) - 1),
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var out bytes.Buffer
	for _, part := range []any{header, segments, body.Bytes(), sections} {
		binary.Write(&out, binary.LittleEndian, part)
	}
	return out.Bytes()
}

// elfVerneed and elfVernaux are the records of .gnu.version_r.
type elfVerneed struct {
	Version, Count  uint16
	File, Aux, Next uint32
}

type elfVernaux struct {
	Hash         uint32
	Flags, Other uint16
	Name, Next   uint32
}

// stringTable is an ELF string table.
type stringTable struct{ text []byte }

func (t *stringTable) data() []byte { return append([]byte{0}, t.text...) }

func (t *stringTable) add(s string) uint64 {
	at := uint64(len(t.text) + 1)
	t.text = append(append(t.text, s...), 0)
	return at
}

// fatbins are the rows of which the bundler's test data has device code, ascending.
func fatbins() []matrix.Row {
	return []matrix.Row{{SM: 75}, {SM: 86}, {SM: 89}, {SM: 90}, {SM: 90, PTX: true}}
}

// deviceCode reads a row's device code; a script has set its path.
func deviceCode(row matrix.Row) ([]byte, error) {
	dir := os.Getenv("FATBINS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "bundler", "testdata", "fatbin")
	}
	return os.ReadFile(filepath.Join(dir, row.String()+".fatbin"))
}

// elfCode is the device code in a file that elfFile made.
func elfCode(file []byte) []byte {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		panic(err)
	}
	code, err := f.Section(".nv_fatbin").Data()
	if err != nil {
		panic(err)
	}
	return code
}

const programRunPath, libraryRunPath, backendRunPath = "$ORIGIN/../../lib", "$ORIGIN", "$ORIGIN:$ORIGIN/../../lib"

// hostHalf is a host half that passes the audit.
func hostHalf() map[string][]byte {
	files := map[string][]byte{
		"LICENSE":                  []byte("MIT\n"),
		"THIRD_PARTY_LICENSES.txt": []byte("none\n"),
		"lib/libggml-cpu-x64.so":   elfFile{needed: []string{"libggml-base.so.0"}, runPath: backendRunPath}.bytes(),
	}
	libraries := []string{"libggml-base.so.0", "libggml.so.0", "libllama.so.0", "libmtmd.so.0"}
	for _, name := range libraries {
		files["lib/"+name] = elfFile{soname: name, runPath: libraryRunPath}.bytes()
	}
	for _, name := range []string{"llama-bench", "llama-cli", "llama-quantize", "llama-server"} {
		files["binaries/"+name] = elfFile{needed: libraries, runPath: programRunPath, interpreter: "/lib64/ld-linux-x86-64.so.2", versions: system()}.bytes()
	}
	return files
}

// deviceHalf is a device half that passes the audit of its row.
func deviceHalf(row matrix.Row) (map[string][]byte, error) {
	code, err := deviceCode(row)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		"THIRD_PARTY_LICENSES.txt": nil,
		"lib/libggml-cuda.so":      elfFile{needed: []string{"libggml-base.so.0", "libcudart.so.12"}, runPath: backendRunPath, fatbin: code}.bytes(),
	}, nil
}

// cudaRuntime is the CUDA runtime of a toolkit's bundles, with what device code there is for them. It passes the audit.
func cudaRuntime(toolkit matrix.Toolkit, runtime matrix.Runtime) (map[string][]byte, error) {
	files := map[string][]byte{"LICENSE": []byte("NVIDIA CUDA Toolkit licence\n")}
	var codes [][]byte
	for _, row := range fatbins() {
		if toolkit.Runtime(row) == runtime {
			code, err := deviceCode(row)
			if err != nil {
				return nil, err
			}
			codes = append(codes, code)
		}
	}
	for i, name := range []string{"libcublas.so.12", "libcublasLt.so.12", "libcudart.so.12"} {
		f := elfFile{soname: name}
		if i < len(codes) {
			f.fatbin = codes[i]
		}
		files["lib/"+name] = f.bytes()
	}
	return files, nil
}

func TestELFFileIsReadable(t *testing.T) {
	code, err := deviceCode(matrix.Row{SM: 75})
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(elfFile{soname: "libx.so.1", needed: []string{"libc.so.6"}, fatbin: code}.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 1 || libs[0] != "libc.so.6" {
		t.Errorf("it needs %q, %v", libs, err)
	}
	if section := f.Section(".nv_fatbin"); section == nil || section.Size != uint64(len(code)) {
		t.Errorf("section is %+v", section)
	}
}
