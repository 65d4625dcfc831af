package bundler

import (
	"bufio"
	"errors"
	"io"
)

// lz4Window is how far back an LZ4 match reaches: its offset has 16 bits.
const lz4Window = 64 << 10

// An lz4Reader decompresses one LZ4 block
// (https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md), which is what fatbins up to CUDA
// 12 hold, without a frame around it. It keeps two windows of output and no more, so that reading
// the first bytes of a large payload stays cheap.
type lz4Reader struct {
	src  *bufio.Reader
	left int64  // bytes still to produce
	hist []byte // the last output, up to 2*lz4Window
	pos  int    // hist[pos:] is not delivered yet

	literals int // left of the current sequence
	match    int // left of the current match
	offset   int
	token    byte
	state    lz4State
}

type lz4State int

const (
	lz4Token lz4State = iota
	lz4Literals
	lz4Match
)

var errLZ4 = errors.New("decompressing LZ4: the block is damaged")

func newLZ4Reader(r io.Reader, size int64) *lz4Reader {
	return &lz4Reader{src: bufio.NewReaderSize(r, 16<<10), left: size, hist: make([]byte, 0, 2*lz4Window)}
}

func (z *lz4Reader) Read(p []byte) (int, error) {
	if z.pos == len(z.hist) {
		if z.left == 0 {
			if _, err := z.src.ReadByte(); err != io.EOF {
				return 0, errLZ4 // the block continues past the size it claims
			}
			return 0, io.EOF
		}
		if err := z.fill(); err != nil {
			if err == io.EOF {
				err = errLZ4
			}
			return 0, err
		}
	}
	n := copy(p, z.hist[z.pos:])
	z.pos += n
	return n, nil
}

// fill produces some output, at most up to the capacity of hist.
func (z *lz4Reader) fill() error {
	if len(z.hist) > lz4Window {
		keep := copy(z.hist, z.hist[len(z.hist)-lz4Window:])
		z.hist = z.hist[:keep]
		z.pos = keep
	}
	for z.left > 0 && len(z.hist) < cap(z.hist) {
		switch z.state {
		case lz4Token:
			token, err := z.src.ReadByte()
			if err != nil {
				return err
			}
			z.token = token
			if z.literals, err = z.length(int(token >> 4)); err != nil {
				return err
			}
			z.state = lz4Literals
		case lz4Literals:
			n := min(z.literals, cap(z.hist)-len(z.hist))
			if int64(n) > z.left {
				return errLZ4
			}
			at := len(z.hist)
			z.hist = z.hist[:at+n]
			if _, err := io.ReadFull(z.src, z.hist[at:]); err != nil {
				return errLZ4
			}
			z.literals -= n
			z.left -= int64(n)
			if z.literals > 0 || z.left == 0 { // the last sequence of a block has no match
				continue
			}
			if err := z.startMatch(); err != nil {
				return err
			}
		case lz4Match:
			n := min(z.match, cap(z.hist)-len(z.hist))
			if int64(n) > z.left {
				return errLZ4
			}
			for range n { // byte by byte: a match may overlap what it produces
				z.hist = append(z.hist, z.hist[len(z.hist)-z.offset])
			}
			z.match -= n
			z.left -= int64(n)
			if z.match == 0 {
				z.state = lz4Token
			}
		}
	}
	return nil
}

func (z *lz4Reader) startMatch() error {
	const minMatch = 4
	var offset [2]byte
	if _, err := io.ReadFull(z.src, offset[:]); err != nil {
		return errLZ4
	}
	z.offset = int(offset[0]) | int(offset[1])<<8
	if z.offset == 0 || z.offset > len(z.hist) {
		return errLZ4
	}
	n, err := z.length(int(z.token & 15))
	if err != nil {
		return err
	}
	z.match = n + minMatch
	z.state = lz4Match
	return nil
}

// length reads the bytes that continue a length whose four bits are all set.
func (z *lz4Reader) length(n int) (int, error) {
	if n < 15 {
		return n, nil
	}
	for {
		b, err := z.src.ReadByte()
		if err != nil {
			return 0, err
		}
		n += int(b)
		if n > maxDevicePayload {
			return 0, errLZ4
		}
		if b < 255 {
			return n, nil
		}
	}
}
