package fetchcli

import (
	"cmp"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
)

// The events of --events: every kind of line that standard error then has is one of these structs. Fields are added to
// them, and none is renamed, removed or given another meaning: programs read them.

// eventsVersion is raised if that cannot be kept to.
const eventsVersion = 1

// An eventHead is what every event begins with.
type eventHead struct {
	Version int    `json:"v"`
	Event   string `json:"event"`
}

func event(kind string) eventHead { return eventHead{eventsVersion, kind} }

// A stepEvent says what the program is doing, and a warningEvent what the user should know: one sentence for a person.
type (
	stepEvent struct {
		eventHead
		Message string `json:"message"`
	}
	warningEvent struct {
		eventHead
		Message string `json:"message"`
	}
)

// A gpuEvent has the GPUs of the machine, if there are any. It comes a second time where the bundle that is chosen does not
// serve all of them.
type gpuEvent struct {
	eventHead
	GPUs    []eventGPU        `json:"gpus"`
	LeftOut []eventGPULeftOut `json:"left_out"`
}

type eventGPU struct {
	Index     int    `json:"index"`
	Name      string `json:"name"`
	SM        int    `json:"sm"`
	UUID      string `json:"uuid"`
	MemoryMiB int    `json:"memory_mib"`
}

type eventGPULeftOut struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

func eventGPUs(gpus []manifests.GPU) []eventGPU {
	list := []eventGPU{}
	for _, gpu := range gpus {
		list = append(list, eventGPU{gpu.Index, gpu.Name, int(gpu.SM), gpu.UUID, gpu.MemoryMiB})
	}
	return list
}

// A platformEvent has the name of what the machine is, for a person: a notebook service, WSL2, or a distribution.
type platformEvent struct {
	eventHead
	Name string `json:"name"`
}

func platformName(h manifests.Host) string {
	switch h.Platform {
	case "kaggle":
		return "Kaggle"
	case "colab":
		return "Colab"
	case "wsl":
		return "WSL2"
	}
	return cmp.Or(h.Distribution, "Linux")
}

// A verifiedEvent has who signed the release that a mirror gave.
type verifiedEvent struct {
	eventHead
	SignedBy string `json:"signed_by"`
	Release  string `json:"release"`
}

// A waitingEvent has the process whose use of the store is waited for. PID is 0 where it is not known.
type waitingEvent struct {
	eventHead
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Since   time.Time `json:"since"`
}

// A downloadEvent says how far a download is, in bytes: at its beginning, where Done is From, at its end, where Done is
// Total, and at most ten times a second between them.
type downloadEvent struct {
	eventHead
	Name string `json:"name"`
	Done int64  `json:"done"`
	// Total is -1 where it is not known.
	Total int64 `json:"total"`
	// From is what an earlier run had brought.
	From   int64  `json:"from"`
	Source string `json:"source"`
}

// eventEvery is the least time between two events of a download.
const eventEvery = 100 * time.Millisecond

// An errorEvent is the last event of a command that failed, and a doneEvent that of any other.
type (
	errorEvent struct {
		eventHead
		// Class is one of failed, usage, untrusted, no-gpu, no-bundle, network, offline, disk and interrupted, and Code the
		// exit code.
		Class   string   `json:"class"`
		Code    int      `json:"code"`
		Message string   `json:"message"`
		Hints   []string `json:"hints"`
	}
	doneEvent struct{ eventHead }
)

// tellHost describes the machine to programs. People learn of it from detect and plan.
func (t *terminal) tellHost(h manifests.Host) {
	t.tell(platformEvent{event("platform"), platformName(h)}, "")
	if len(h.GPUs) > 0 {
		t.tell(gpuEvent{event("gpu"), eventGPUs(h.GPUs), []eventGPULeftOut{}}, "")
	}
}

// tellDecision tells programs of GPUs that the chosen bundle does not serve.
func (t *terminal) tellDecision(d manifests.Decision) {
	e := gpuEvent{eventHead: event("gpu")}
	var all []manifests.GPU
	for _, gpu := range d.GPUs {
		all = append(all, gpu.GPU)
		if !gpu.Served {
			e.LeftOut = append(e.LeftOut, eventGPULeftOut{gpu.Name, gpu.Reason})
		}
	}
	if e.GPUs = eventGPUs(all); len(e.LeftOut) > 0 {
		t.tell(e, "")
	}
}

// tellVerified tells programs whose signature counted.
func (t *terminal) tellVerified(r *fetch.Release) {
	if r.Signer.By != "" {
		t.tell(verifiedEvent{event("verified"), r.Signer.By, r.Release.Release}, "")
	}
}
