package archive

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// A frameReader passes on the bytes of exactly one zstd frame (RFC 8878, section 3.1.1) and then
// ends, whatever follows. The decoder itself would continue with the next frame and skip skippable
// ones, in which anything could hide.
type frameReader struct {
	src      *bufio.Reader
	buf      []byte // read, but not passed on: a header
	left     int64  // bytes of the current block to pass on
	state    frameState
	checksum bool
}

type frameState int

const (
	frameHeader frameState = iota
	frameBlock
	frameChecksum
	frameEnd
)

const zstdMagic = 0xFD2FB528

var errFrame = errors.New("decompressing zstd: not a frame")

func newFrameReader(r *bufio.Reader) *frameReader { return &frameReader{src: r} }

func (f *frameReader) Read(p []byte) (int, error) {
	for len(f.buf) == 0 && f.left == 0 {
		if f.state == frameEnd {
			return 0, io.EOF
		}
		if err := f.next(); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
	}
	if len(f.buf) > 0 {
		n := copy(p, f.buf)
		f.buf = f.buf[n:]
		return n, nil
	}
	n, err := f.src.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	if err == io.EOF && f.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the header of the next part of the frame.
func (f *frameReader) next() error {
	switch f.state {
	case frameHeader:
		return f.readHeader()
	case frameChecksum:
		f.left, f.state = 4, frameEnd
		return nil
	}
	head, err := f.take(3)
	if err != nil {
		return err
	}
	const rle = 1
	block := uint32(head[0]) | uint32(head[1])<<8 | uint32(head[2])<<16
	f.left = int64(block >> 3)
	if block>>1&3 == rle {
		f.left = 1
	}
	if block&1 != 0 { // the last block
		f.state = frameEnd
		if f.checksum {
			f.state = frameChecksum
		}
	}
	return nil
}

func (f *frameReader) readHeader() error {
	head, err := f.take(5)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(head) != zstdMagic {
		return errFrame
	}
	descriptor := head[4]
	f.checksum = descriptor&4 != 0
	single := descriptor&0x20 != 0
	rest := []int{0, 1, 2, 4}[descriptor&3]      // dictionary id
	rest += []int{0, 2, 4, 8}[descriptor>>6]     // content size
	if single && descriptor>>6 == 0 || !single { // a content size of one byte, or the window
		rest++
	}
	if _, err := f.take(rest); err != nil {
		return err
	}
	f.state = frameBlock
	return nil
}

// take reads n bytes and keeps them to be passed on.
func (f *frameReader) take(n int) ([]byte, error) {
	at := len(f.buf)
	f.buf = append(f.buf, make([]byte, n)...)
	_, err := io.ReadFull(f.src, f.buf[at:])
	return f.buf[at:], err
}
