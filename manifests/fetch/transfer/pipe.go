package transfer

import (
	"io"
	"sync"
)

// A pipe is io.Pipe with room for bytes between its ends. Without the room each read waits for a
// write and each write for a read, and where other programs compete for the processor, each such
// rendezvous costs a time slice.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond
	bytes   []byte // a ring
	start   int    // of what is to be read
	filled  int
	ended   error // what the reader sees after the last byte; nil while there may be more
	refused error // what the writer sees when the reader has stopped
	broken  bool  // ended counts at once, before the bytes that are left
}

func newPipe(room int) *pipe {
	p := &pipe{bytes: make([]byte, room)}
	p.changed.L = &p.mu
	return p
}

// Write puts bytes in, and waits while there is no room.
func (p *pipe) Write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for p.refused == nil && p.ended == nil && p.filled == len(p.bytes) {
			p.changed.Wait()
		}
		switch {
		case p.refused != nil:
			return written, p.refused
		case p.ended != nil:
			return written, io.ErrClosedPipe
		}
		end := (p.start + p.filled) % len(p.bytes)
		n := copy(p.bytes[end:min(len(p.bytes), end+len(p.bytes)-p.filled)], b)
		p.filled += n
		written, b = written+n, b[n:]
		p.changed.Broadcast()
	}
	return written, nil
}

// Read takes bytes out, and waits while there are none.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.ended == nil && p.refused == nil && p.filled == 0 {
		p.changed.Wait()
	}
	switch {
	case p.refused != nil:
		return 0, io.ErrClosedPipe
	case p.broken || p.filled == 0:
		return 0, p.ended
	}
	n := copy(b, p.bytes[p.start:min(len(p.bytes), p.start+p.filled)])
	p.start, p.filled = (p.start+n)%len(p.bytes), p.filled-n
	p.changed.Broadcast()
	return n, nil
}

// end is for the writer: nil gives the reader what is left and then io.EOF; any other error fails
// the reader at once. The first call counts.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended, p.broken = err, err != nil
		if err == nil {
			p.ended = io.EOF
		}
	}
	p.changed.Broadcast()
}

// refuse is for the reader: it wants no more data, and the writer gets the error that says why.
func (p *pipe) refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused = err
	p.changed.Broadcast()
}
