package transfer

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// What goes in comes out, in order, whatever the sizes of the writes, the reads and the pipe.
func TestPipe(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		sent := make([]byte, random.IntN(5000))
		for i := range sent {
			sent[i] = byte(random.Uint32())
		}
		p := newPipe(1 + random.IntN(300))
		go func() {
			for rest := sent; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(700))
				if written, err := p.Write(rest[:n]); written != n || err != nil {
					t.Errorf("%d, %v", written, err)
				}
				rest = rest[n:]
			}
			p.end(nil)
		}()
		if err := iotest.TestReader(p, sent); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPipeEnds(t *testing.T) {
	broken := errors.New("broken")
	buffer := make([]byte, 10)

	// A writer's error reaches the reader before the bytes that are left, and the first error
	// counts.
	p := newPipe(10)
	if _, err := p.Write([]byte("left")); err != nil {
		t.Fatal(err)
	}
	p.end(broken)
	p.end(nil)
	if n, err := p.Read(buffer); n != 0 || err != broken {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := p.Write([]byte("more")); err != io.ErrClosedPipe {
		t.Error(err)
	}

	// The reader gets all bytes of a writer that succeeds.
	p = newPipe(10)
	if _, err := p.Write([]byte("left")); err != nil {
		t.Fatal(err)
	}
	p.end(nil)
	if got, err := io.ReadAll(p); err != nil || !bytes.Equal(got, []byte("left")) {
		t.Errorf("%q, %v", got, err)
	}

	// A waiting reader or writer is woken by the other's end.
	p = newPipe(10)
	done := make(chan error)
	go func() {
		_, err := p.Write(make([]byte, 11))
		done <- err
	}()
	p.refuse(broken)
	if err := <-done; err != broken {
		t.Error(err)
	}
	if _, err := p.Read(buffer); err != io.ErrClosedPipe {
		t.Error(err)
	}
	p = newPipe(10)
	go func() {
		_, err := p.Read(buffer)
		done <- err
	}()
	p.end(broken)
	if err := <-done; err != broken {
		t.Error(err)
	}
}
