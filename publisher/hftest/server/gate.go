package main

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

// A gate stands before a server: it writes the log and lets the faults happen.
type gate struct {
	world   *world
	inner   http.Handler
	stageOf func(*http.Request) string
	// overtake, if not nil, makes a commit of another client.
	overtake func(*http.Request)
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	stage := g.stageOf(r)
	body := &countedBody{ReadCloser: r.Body}
	r.Body = body
	answer := &countedAnswer{ResponseWriter: w}
	defer func() {
		g.world.record(Request{Stage: stage, Method: r.Method, Path: r.URL.Path, Range: r.Header.Get("Range"), Status: answer.status,
			Bytes: body.n, Token: r.Header.Get("Authorization") != ""})
	}()
	fault := g.world.fault(stage)
	if fault == nil {
		g.inner.ServeHTTP(answer, r)
		return
	}
	drop := func() {
		panic(http.ErrAbortHandler) // net/http's way to end a connection without an answer
	}
	say := func() {
		for name, value := range fault.Header {
			answer.Header().Set(name, value)
		}
		answer.WriteHeader(cmp.Or(fault.Status, http.StatusInternalServerError))
		io.WriteString(answer, fault.Body)
	}
	switch fault.Do {
	case "drop":
		io.CopyN(io.Discard, r.Body, fault.Bytes)
		drop()
	case "drop-after":
		g.inner.ServeHTTP(httptest.NewRecorder(), r)
		drop()
	case "status":
		io.Copy(io.Discard, r.Body)
		say()
	case "status-after":
		g.inner.ServeHTTP(httptest.NewRecorder(), r)
		say()
	case "stall":
		io.CopyN(io.Discard, r.Body, fault.Bytes)
		select { // until the client gives up, but not forever: without further reads that goes unnoticed
		case <-r.Context().Done():
		case <-time.After(20 * time.Second):
		}
		drop()
	case "revoke":
		g.world.revoke(r)
		g.inner.ServeHTTP(answer, r)
	case "overtake":
		g.overtake(r)
		g.inner.ServeHTTP(answer, r)
	case "expire":
		io.Copy(io.Discard, r.Body)
		expired(answer)
	default:
		http.Error(answer, "unknown fault "+fault.Do, http.StatusNotImplemented)
	}
}

// A countedBody counts what is read of a request.
type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

// A countedAnswer remembers the status.
type countedAnswer struct {
	http.ResponseWriter
	status int
}

func (a *countedAnswer) WriteHeader(status int) {
	a.status = cmp.Or(a.status, status)
	a.ResponseWriter.WriteHeader(status)
}

func (a *countedAnswer) Write(p []byte) (int, error) {
	a.status = cmp.Or(a.status, http.StatusOK)
	return a.ResponseWriter.Write(p)
}
