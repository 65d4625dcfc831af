package bundler

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Sections that hold device code, and the records that hand it to the CUDA runtime.
const (
	sectionFatbin    = ".nv_fatbin"
	sectionRelFatbin = "__nv_relfatbin" // relocatable device code (nvcc -rdc=true)
	sectionWrappers  = ".nvFatBinSegment"
)

// maxWrappers bounds what is read of .nvFatBinSegment; llama.cpp has 143 records, libcublasLt a few
// thousand.
const maxWrappers = 1 << 20

// An ELF is what the audit needs to know of a program or library.
type ELF struct {
	Machine     elf.Machine
	Class       elf.Class
	Type        elf.Type
	Interpreter string
	Soname      string
	Needed      []string
	RunPath     []string // usually none or one
	RPath       []string
	// Versions are the symbol versions that must be found in other files.
	Versions []SymbolVersion
	// Defines are the symbol versions the file gives.
	Defines []string
	// Exports maps each dynamic symbol that the file defines to its versions ("" for none).
	Exports map[string][]string
	// Imports are the dynamic symbols that another file must define. Weak ones are left out: they
	// may be absent.
	Imports []Import
	// ExecStack says that the kernel would make the stack executable.
	ExecStack bool
	// Symbols names the sections that strip would remove.
	Symbols []string
	// DeviceCode is every entry of every fatbin.
	DeviceCode []DeviceCode
}

// A SymbolVersion is a version that a library must define: GLIBC_2.34 in libc.so.6.
type SymbolVersion struct{ Library, Name string }

// An Import is an undefined symbol. Library and Version are empty where the linker recorded none.
type Import struct{ Name, Version, Library string }

// DeviceCode is an entry of a fatbin and the section that it stands in. Its Offset counts from the
// file's start.
type DeviceCode struct {
	Section string
	FatbinEntry
}

// ReadELF reads a 64-bit x86 ELF file; anything that it cannot read in it is an error.
func ReadELF(r io.ReaderAt) (*ELF, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("reading ELF file: %w", err)
	}
	e := &ELF{Machine: f.Machine, Class: f.Class, Type: f.Type, Exports: make(map[string][]string)}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Data != elf.ELFDATA2LSB {
		return e, nil // of no interest beyond that
	}
	if err := e.readSegments(f); err != nil {
		return nil, fmt.Errorf("reading ELF segments: %w", err)
	}
	if err := e.readDynamic(f); err != nil {
		return nil, fmt.Errorf("reading dynamic section: %w", err)
	}
	if err := e.readSymbols(f); err != nil {
		return nil, fmt.Errorf("reading dynamic symbols: %w", err)
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_SYMTAB || strings.HasPrefix(s.Name, ".debug_") || strings.HasPrefix(s.Name, ".zdebug_") {
			e.Symbols = append(e.Symbols, s.Name)
		}
	}
	if err := e.readDeviceCode(f); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *ELF) readSegments(f *elf.File) error {
	const maxInterpreter = 4096 // PATH_MAX
	e.ExecStack = true          // what the kernel assumes where PT_GNU_STACK is absent
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_GNU_STACK:
			e.ExecStack = p.Flags&elf.PF_X != 0
		case elf.PT_INTERP:
			if p.Filesz > maxInterpreter {
				return fmt.Errorf("interpreter's name has %d bytes", p.Filesz)
			}
			name, err := io.ReadAll(p.Open())
			if err != nil {
				return err
			}
			e.Interpreter = strings.TrimRight(string(name), "\x00")
		}
	}
	return nil
}

func (e *ELF) readDynamic(f *elf.File) error {
	if f.SectionByType(elf.SHT_DYNAMIC) == nil {
		return nil
	}
	var sonames []string
	for _, want := range []struct {
		tag elf.DynTag
		to  *[]string
	}{
		{elf.DT_NEEDED, &e.Needed},
		{elf.DT_SONAME, &sonames},
		{elf.DT_RUNPATH, &e.RunPath},
		{elf.DT_RPATH, &e.RPath},
	} {
		values, err := f.DynString(want.tag)
		if err != nil {
			return fmt.Errorf("%v: %w", want.tag, err)
		}
		*want.to = values
	}
	if len(sonames) > 1 {
		return fmt.Errorf("%d SONAMEs", len(sonames))
	}
	if len(sonames) == 1 {
		e.Soname = sonames[0]
	}
	return nil
}

func (e *ELF) readSymbols(f *elf.File) error {
	symbols, err := f.DynamicSymbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return err
	}
	for _, s := range symbols {
		binding := elf.ST_BIND(s.Info)
		switch {
		case s.Section == elf.SHN_UNDEF && binding != elf.STB_WEAK && s.Name != "":
			e.Imports = append(e.Imports, Import{Name: s.Name, Version: s.Version, Library: s.Library})
		case s.Section != elf.SHN_UNDEF && binding != elf.STB_LOCAL:
			e.Exports[s.Name] = append(e.Exports[s.Name], s.Version)
		}
	}
	if f.SectionByType(elf.SHT_GNU_VERNEED) != nil {
		needs, err := f.DynamicVersionNeeds()
		if err != nil {
			return err
		}
		for _, need := range needs {
			for _, dep := range need.Needs {
				e.Versions = append(e.Versions, SymbolVersion{Library: need.Name, Name: dep.Dep})
			}
		}
	}
	if f.SectionByType(elf.SHT_GNU_VERDEF) != nil {
		defines, err := f.DynamicVersions()
		if err != nil {
			return err
		}
		for _, d := range defines {
			e.Defines = append(e.Defines, d.Name)
		}
	}
	return nil
}

func (e *ELF) readDeviceCode(f *elf.File) error {
	for _, s := range f.Sections {
		if s.Name != sectionFatbin && s.Name != sectionRelFatbin {
			continue
		}
		if s.Type == elf.SHT_NOBITS || s.Flags&elf.SHF_COMPRESSED != 0 {
			return fmt.Errorf("reading section %s: it is not stored as it is", s.Name)
		}
		entries, err := ReadFatbin(s, int64(s.Size))
		if err != nil {
			return fmt.Errorf("reading section %s: %w", s.Name, err)
		}
		for _, entry := range entries {
			entry.Offset += int64(s.Offset)
			e.DeviceCode = append(e.DeviceCode, DeviceCode{Section: s.Name, FatbinEntry: entry})
		}
	}
	return e.readWrappers(f)
}

// readWrappers checks that the records in .nvFatBinSegment point at the containers that were read.
func (e *ELF) readWrappers(f *elf.File) error {
	segment := f.Section(sectionWrappers)
	if segment == nil || segment.Type == elf.SHT_NOBITS || segment.Size == 0 {
		if len(e.DeviceCode) > 0 {
			return fmt.Errorf("reading section %s: it is absent, so nothing loads the device code", sectionWrappers)
		}
		return nil
	}
	if segment.Size > maxWrappers*wrapperSize {
		return fmt.Errorf("reading section %s: it has %d bytes", sectionWrappers, segment.Size)
	}
	records, err := segment.Data()
	if err != nil {
		return fmt.Errorf("reading section %s: %w", sectionWrappers, err)
	}
	addresses, err := relativeRelocations(f, segment.Addr, segment.Size)
	if err != nil {
		return fmt.Errorf("reading relocations of %s: %w", sectionWrappers, err)
	}
	starts := make(map[uint64]bool)
	for _, s := range f.Sections {
		if s.Name != sectionFatbin && s.Name != sectionRelFatbin {
			continue
		}
		if err := walkContainers(s, int64(s.Size), func(at, _, _ int64) error { starts[s.Addr+uint64(at)] = true; return nil }); err != nil {
			return fmt.Errorf("reading section %s: %w", s.Name, err)
		}
	}
	if err := checkWrappers(records, segment.Addr, addresses, starts); err != nil {
		return fmt.Errorf("reading section %s: %w", sectionWrappers, err)
	}
	return nil
}

// relativeRelocations reads, for a range of addresses, the values that the loader stores there: the
// addends of R_X86_64_RELATIVE. The file itself may hold zeros in these places.
func relativeRelocations(f *elf.File, from, size uint64) (map[uint64]uint64, error) {
	const record = 24
	values := make(map[uint64]uint64)
	for _, s := range f.Sections {
		if s.Type != elf.SHT_RELA || s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return nil, err
		}
		for rela := range slices.Chunk(data[:len(data)-len(data)%record], record) {
			at, info, addend := binary.LittleEndian.Uint64(rela), binary.LittleEndian.Uint64(rela[8:]), binary.LittleEndian.Uint64(rela[16:])
			if elf.R_X86_64(info&0xffffffff) == elf.R_X86_64_RELATIVE && at-from < size {
				values[at] = addend
			}
		}
	}
	return values, nil
}
