package ghtest

import (
	"net/http"
	"slices"
	"time"
)

// An Op is a kind of request.
type Op string

// The kinds of requests.
const (
	List          Op = "list releases"
	Create        Op = "create a release"
	Read          Op = "get a release"
	ReadByTag     Op = "get a release by tag"
	ReadLatest    Op = "get the latest release"
	Promote       Op = "update a release"
	DeleteRelease Op = "delete a release"
	ListAssets    Op = "list assets"
	Upload        Op = "upload an asset"
	ReadAsset     Op = "get an asset"
	UpdateAsset   Op = "update an asset"
	DeleteAsset   Op = "delete an asset"
	ReadRef       Op = "get a tag's ref"
	ReadTag       Op = "get a tag"
	// Storage is a download from the other host.
	Storage Op = "download"
)

// A Stage is when a fault comes.
type Stage int

const (
	// Before is when the request's headers are there: nothing of it is done, and no body is read.
	Before Stage = iota
	// Middle is in the middle of the body of an upload, or of a download.
	Middle
	// After is when all is done, and only the answer is missing.
	After
)

// A Leave is what an upload that breaks off leaves.
type Leave int

const (
	// Starter is an asset in state "starter".
	Starter Leave = iota
	// HiddenStarter is an asset that no list has, and that blocks the name.
	HiddenStarter
	// Nothing is nothing.
	Nothing
)

// A Fault is something that goes wrong.
type Fault struct {
	On   Op
	Name string // of the asset that is uploaded or downloaded; any if empty
	At   Stage
	// Status is what is answered, with Header and Message. If 0 the connection is dropped.
	Status  int
	Header  http.Header
	Message string
	// Stall is that nothing more happens, until the client goes.
	Stall bool
	// Leave is what an upload leaves. One that ends Before leaves nothing unless Begun is set.
	Leave Leave
	Begun bool
	// Forget is how long what it leaves stays: for good if 0.
	Forget time.Duration
	// Then is done once, when the fault comes.
	Then func()
	// Times is how often it comes: once if 0, always if negative. Skip is how many requests it lets pass before.
	Times, Skip int
}

// Fail lets something go wrong.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		s.faults = append(s.faults, &f)
	}
}

// Left returns how many faults have not occurred yet.
func (s *Server) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(s.faults), func(f *Fault) bool { return f.Times <= 0 }))
}

// fault takes the fault that a request meets.
func (s *Server) fault(r *request) *Fault {
	name := r.params["name"]
	if r.op == Upload {
		name = r.URL.Query().Get("name")
	}
	s.mu.Lock()
	var met *Fault
	for _, f := range s.faults {
		if f.On != r.op || f.Times == 0 || f.Name != "" && f.Name != name {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		f.Times--
		met = f
		break
	}
	s.mu.Unlock()
	if met != nil && met.Then != nil {
		met.Then()
	}
	return met
}

// refuse ends a request before anything of it is done.
func (s *Server) refuse(w http.ResponseWriter, r *request, f *Fault) {
	if r.op == Upload && f.Begun {
		s.mu.Lock()
		if release := s.releaseOf(r); release != nil {
			s.leave(s.begin(release, r), f)
		}
		s.mu.Unlock()
	}
	s.broken(w, r, f)
}

// broken answers a request that met a fault.
func (s *Server) broken(w http.ResponseWriter, r *request, f *Fault) {
	switch {
	case f.Stall:
		s.stall(r)
	case f.Status == 0:
		panic(http.ErrAbortHandler)
	}
	message := f.Message
	if message == "" {
		message = http.StatusText(f.Status)
	}
	out := *problem(f.Status, message)
	out.header = f.Header
	s.write(w, out)
}

// stall does nothing until the client disconnects, which goes unnoticed while part of the request's body is unread, or
// until the test ends.
func (s *Server) stall(r *request) {
	select {
	case <-r.Context().Done():
	case <-s.ended:
	}
	panic(http.ErrAbortHandler)
}

// leave is what becomes of an asset whose upload broke off. The caller holds the lock.
func (s *Server) leave(a *asset, f *Fault) {
	if a == nil || f == nil {
		return
	}
	switch f.Leave {
	case HiddenStarter:
		a.hidden = true
	case Nothing:
		a.forget = time.Now()
	}
	if f.Forget > 0 {
		a.forget = time.Now().Add(f.Forget)
	}
}
