package bundler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// A fatbin is what nvcc embeds in an object file: containers laid end to end, each with the device
// code of one translation unit for one or more SMs. NVIDIA does not document it. A container is
//
//	0  u32  magic 0xBA55ED50
//	4  u16  version 1
//	6  u16  size of this header: 16
//	8  u64  size of the entries that follow
//
// and an entry is
//
//	0   u16  kind: 1 PTX, 2 ELF (cubin)
//	2   u16  version 0x0101
//	4   u32  size of this header: 64 or more
//	8   u64  size of the payload with its padding
//	16  u32  size of the compressed payload, 0 where it is not compressed
//	20  u32  offset of optional fields
//	24  u16  minor, 26 u16 major version of the format inside
//	28  u32  SM
//	32  u32  offset, 36 u32 length of a file name
//	40  u64  flags: 0x2000 LZ4 block, 0x8000 zstd, 0x100000 code for one chip only (sm_90a), 0x200000
//	         for the chips of one family only (sm_120f)
//	48  u64  zero
//	56  u64  size of the payload when decompressed, 0 where it is not compressed
const (
	fatbinMagic        = 0xBA55ED50
	fatbinVersion      = 1
	containerHeader    = 16
	entryHeader        = 64
	maxEntryHeader     = 4 << 10 // the longest seen is 112; a length beyond this is garbage
	flagLZ4            = 0x2000
	flagZstd           = 0x8000
	flagOneChip        = 0x100000
	flagFamily         = 0x200000
	fatbinAlignment    = 8
	wrapperMagic       = 0x466243B1 // of a record in .nvFatBinSegment, which points at a container
	wrapperSize        = 24
	maxLZ4Ratio        = 256       // an LZ4 block cannot expand more: a match of n bytes takes n/255 bytes
	maxDevicePayload   = 512 << 20 // a bound on memory; the largest cubin in libcublasLt is far below
	devicePrefix       = 8 << 10   // how much of a payload is read to learn its SM
	elfMachineCUDA     = 190       // EM_CUDA
	cubinABIWithWideSM = 8         // from this ABI version on (CUDA 13), the SM stands in bits 8-15 of e_flags
	cubinOneChip       = 0x800     // in e_flags of the ABI before
)

// A CodeKind is what an entry of a fatbin contains.
type CodeKind uint16

// The kinds that a bundle may have.
const (
	PTX   CodeKind = 1
	Cubin CodeKind = 2
)

func (k CodeKind) String() string {
	switch k {
	case PTX:
		return "PTX"
	case Cubin:
		return "cubin"
	}
	return fmt.Sprintf("device code of kind %d", uint16(k))
}

// A FatbinEntry is one piece of device code.
type FatbinEntry struct {
	Kind CodeKind
	SM   matrix.SM
	// Variant is "a" or "f" for code that runs on one chip or family only (sm_90a, sm_100f), as far
	// as it can be told.
	Variant string
	// Container counts the containers of the section from 0.
	Container int
	// Compression is "", "lz4" or "zstd".
	Compression string
	// Offset and Size say where the stored payload lies, without padding.
	Offset, Size int64
	// Raw is the payload's size when decompressed.
	Raw int64
}

// Name is the entry in NVIDIA's words: "sm_75" or "compute_89".
func (e FatbinEntry) Name() string {
	prefix := "sm_"
	if e.Kind == PTX {
		prefix = "compute_"
	}
	return prefix + e.Code().String()
}

// Code is what the entry was compiled for.
func (e FatbinEntry) Code() matrix.Code { return matrix.Code{SM: e.SM, Variant: e.Variant} }

// A FatbinError says where in a section the device code cannot be read.
type FatbinError struct {
	Offset int64
	Reason string
}

func (e *FatbinError) Error() string {
	return fmt.Sprintf("reading device code at offset %#x: %s", e.Offset, e.Reason)
}

func fatbinErrorf(offset int64, format string, args ...any) error {
	return &FatbinError{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// ReadFatbin reads the entries of a .nv_fatbin section (or of a .fatbin file) of the given size. It
// reads the SM of each entry twice, from the entry's header and from the code inside, and refuses a
// fatbin in which the two differ. Anything that is not understood is an error too: device code that
// cannot be read cannot be vouched for.
func ReadFatbin(r io.ReaderAt, size int64) ([]FatbinEntry, error) {
	var entries []FatbinEntry
	containers := 0
	err := walkContainers(r, size, func(_, start, end int64) error {
		for start < end {
			entry, next, err := readEntry(r, start, end)
			if err != nil {
				return err
			}
			entry.Container = containers
			entries = append(entries, entry)
			start = next
		}
		containers++
		return nil
	})
	return entries, err
}

// walkContainers calls visit for each container: where it begins, and where its entries begin and
// end.
func walkContainers(r io.ReaderAt, size int64, visit func(at, start, end int64) error) error {
	var head [containerHeader]byte
	for at := int64(0); at < size; {
		if left := size - at; left < fatbinAlignment {
			return wantZeros(r, at, left)
		}
		if err := readAt(r, head[:fatbinAlignment], at); err != nil {
			return err
		}
		if binary.LittleEndian.Uint64(head[:]) == 0 { // padding between the containers of two object files
			at += fatbinAlignment
			continue
		}
		if left := size - at; left < containerHeader {
			return fatbinErrorf(at, "%d bytes are left, too few for a container", left)
		}
		if err := readAt(r, head[:], at); err != nil {
			return err
		}
		if magic := binary.LittleEndian.Uint32(head[0:]); magic != fatbinMagic {
			return fatbinErrorf(at, "want a container (magic %#x), found %#x", uint32(fatbinMagic), magic)
		}
		version, header := binary.LittleEndian.Uint16(head[4:]), binary.LittleEndian.Uint16(head[6:])
		if version != fatbinVersion || header != containerHeader {
			return fatbinErrorf(at, "container of version %d with a header of %d bytes; only version %d with %d is known", version, header, fatbinVersion, containerHeader)
		}
		start := at + containerHeader
		length := binary.LittleEndian.Uint64(head[8:])
		if length > uint64(size-start) {
			return fatbinErrorf(at, "container of %d bytes is truncated: %d are left", length, size-start)
		}
		end := start + int64(length)
		if err := visit(at, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// readEntry reads the entry at an offset of a container that ends at end, and says where the next
// one starts.
func readEntry(r io.ReaderAt, at, end int64) (entry FatbinEntry, next int64, err error) {
	var head [entryHeader]byte
	if end-at < entryHeader {
		return entry, 0, fatbinErrorf(at, "%d bytes are left in the container, too few for an entry", end-at)
	}
	if err := readAt(r, head[:], at); err != nil {
		return entry, 0, err
	}
	le := binary.LittleEndian
	header, padded := int64(le.Uint32(head[4:])), le.Uint64(head[8:])
	if header < entryHeader || header > maxEntryHeader {
		return entry, 0, fatbinErrorf(at, "entry has a header of %d bytes", header)
	}
	if header > end-at || padded > uint64(end-at-header) {
		return entry, 0, fatbinErrorf(at, "entry of %d+%d bytes is truncated: %d are left in its container", header, padded, end-at)
	}
	compressed, flags, raw := int64(le.Uint32(head[16:])), le.Uint64(head[40:]), le.Uint64(head[56:])
	entry = FatbinEntry{
		Kind:   CodeKind(le.Uint16(head[0:])),
		SM:     matrix.SM(le.Uint32(head[28:])),
		Offset: at + header,
		Size:   int64(padded),
		Raw:    int64(padded),
	}
	switch {
	case flags&flagOneChip != 0 && flags&flagFamily != 0:
		return entry, 0, fatbinErrorf(at, "entry is flagged for one chip and for a family (flags %#x)", flags)
	case flags&flagOneChip != 0:
		entry.Variant = "a"
	case flags&flagFamily != 0:
		entry.Variant = "f"
	}
	switch {
	case flags&flagLZ4 != 0 && flags&flagZstd != 0:
		return entry, 0, fatbinErrorf(at, "entry is flagged as compressed in two ways (flags %#x)", flags)
	case flags&flagLZ4 != 0:
		entry.Compression = "lz4"
	case flags&flagZstd != 0:
		entry.Compression = "zstd"
	}
	if entry.Compression != "" {
		if compressed <= 0 || uint64(compressed) > padded {
			return entry, 0, fatbinErrorf(at, "entry has %d compressed bytes in a payload of %d", compressed, padded)
		}
		if raw == 0 || raw > maxDevicePayload || entry.Compression == "lz4" && raw > uint64(compressed)*maxLZ4Ratio {
			return entry, 0, fatbinErrorf(at, "entry claims to be %d bytes when decompressed, out of %d", raw, compressed)
		}
		entry.Size, entry.Raw = compressed, int64(raw)
	}
	if err := checkSM(r, &entry); err != nil {
		return entry, 0, fatbinErrorf(at, "%s for %s: %v", entry.Kind, entry.Name(), err)
	}
	return entry, at + header + int64(padded), nil
}

// checkSM compares the SM that the entry's header names with the one in the code, and learns the
// variant from there.
func checkSM(r io.ReaderAt, entry *FatbinEntry) error {
	if entry.Kind != PTX && entry.Kind != Cubin {
		return nil // the audit refuses it by its kind
	}
	prefix, err := entry.prefix(r)
	if err != nil {
		return err
	}
	var found matrix.SM
	if entry.Kind == PTX {
		var variant string
		if found, variant, err = ptxTarget(prefix); variant != "" {
			entry.Variant = variant
		}
	} else {
		var oneChip bool
		if found, oneChip, err = cubinSM(prefix); oneChip {
			entry.Variant = "a"
		}
	}
	if err != nil {
		return err
	}
	if found != entry.SM {
		return fmt.Errorf("the code inside is for sm_%d", int(found))
	}
	return nil
}

// prefix is the start of the decompressed payload.
func (e FatbinEntry) prefix(r io.ReaderAt) ([]byte, error) {
	payload, err := e.Open(r)
	if err != nil {
		return nil, err
	}
	defer payload.Close()
	return io.ReadAll(io.LimitReader(payload, devicePrefix))
}

// Open returns the decompressed payload. Reading it to the end proves that it decompresses to the
// size it claims.
func (e FatbinEntry) Open(r io.ReaderAt) (io.ReadCloser, error) {
	stored := io.NewSectionReader(r, e.Offset, e.Size)
	switch e.Compression {
	case "lz4":
		return io.NopCloser(newLZ4Reader(stored, e.Raw)), nil
	case "zstd":
		decoder, err := zstd.NewReader(stored, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDevicePayload))
		if err != nil {
			return nil, err
		}
		return &exactReader{r: decoder.IOReadCloser(), left: e.Raw}, nil
	}
	return io.NopCloser(stored), nil
}

// ptxTarget reads ".target sm_89" of a PTX text.
func ptxTarget(text []byte) (sm matrix.SM, variant string, err error) {
	const directive = ".target sm_"
	_, rest, ok := bytes.Cut(text, []byte(directive))
	if !ok {
		return 0, "", errors.New("no .target line in the PTX")
	}
	end := bytes.IndexFunc(rest, func(c rune) bool { return c < '0' || c > '9' })
	if end < 1 {
		return 0, "", errors.New("no SM on the .target line of the PTX")
	}
	sm, err = matrix.ParseSM(string(rest[:end]))
	if c := rest[end]; c == 'a' || c == 'f' {
		variant = string(c)
	}
	return sm, variant, err
}

// cubinSM reads the SM out of the ELF header of a cubin. oneChip can be told only for the older
// ABI.
func cubinSM(head []byte) (sm matrix.SM, oneChip bool, err error) {
	const (
		elf64Header   = 64
		abiVersion    = 8
		machineOffset = 18
		flagsOffset   = 48
	)
	if len(head) < elf64Header || !bytes.HasPrefix(head, []byte("\x7fELF\x02\x01")) {
		return 0, false, errors.New("the payload is not a 64-bit ELF file")
	}
	if machine := binary.LittleEndian.Uint16(head[machineOffset:]); machine != elfMachineCUDA {
		return 0, false, fmt.Errorf("the ELF file inside is for machine %d, not for a GPU (%d)", machine, elfMachineCUDA)
	}
	flags := binary.LittleEndian.Uint32(head[flagsOffset:])
	if head[abiVersion] >= cubinABIWithWideSM {
		return matrix.SM(flags >> 8 & 0xff), false, nil
	}
	return matrix.SM(flags & 0xff), flags&cubinOneChip != 0, nil
}

// checkWrappers reads .nvFatBinSegment, which lies at an address and has one record for each
// container that the program hands to the CUDA runtime. relocated are the values that the loader
// stores in it, starts the addresses at which containers begin: a record that points elsewhere
// means that the containers found are not the ones that will be loaded.
func checkWrappers(segment []byte, address uint64, relocated map[uint64]uint64, starts map[uint64]bool) error {
	const pointer = 8 // offset in a record
	if len(segment)%wrapperSize != 0 {
		return fatbinErrorf(0, "%d bytes are not a multiple of %d", len(segment), wrapperSize)
	}
	for i := 0; i < len(segment); i += wrapperSize {
		if magic := binary.LittleEndian.Uint32(segment[i:]); magic != wrapperMagic {
			return fatbinErrorf(int64(i), "want a record (magic %#x), found %#x", uint32(wrapperMagic), magic)
		}
		target, ok := relocated[address+uint64(i)+pointer]
		if !ok {
			target = binary.LittleEndian.Uint64(segment[i+pointer:])
		}
		if !starts[target] {
			return fatbinErrorf(int64(i), "the record points at address %#x, where no container begins", target)
		}
	}
	return nil
}

func wantZeros(r io.ReaderAt, at, n int64) error {
	tail := make([]byte, n)
	if err := readAt(r, tail, at); err != nil {
		return err
	}
	if strings.Trim(string(tail), "\x00") != "" {
		return fatbinErrorf(at, "%d bytes follow the last container", n)
	}
	return nil
}

func readAt(r io.ReaderAt, p []byte, at int64) error {
	n, err := r.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fatbinErrorf(at, "%v", err)
}

// exactReader fails where a stream is longer or shorter than announced.
type exactReader struct {
	r    io.ReadCloser
	left int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if e.left < 0 {
		return n, errors.New("decompressing: more data than announced")
	}
	if err == io.EOF && e.left > 0 {
		return n, fmt.Errorf("decompressing: %d bytes fewer than announced", e.left)
	}
	return n, err
}

func (e *exactReader) Close() error { return e.r.Close() }
