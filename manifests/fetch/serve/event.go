package serve

import (
	"fmt"
	"strings"
	"time"
)

// An Event is a change in a server's state: a Starting, Loading, Ready, Exit or Warning.
type Event interface{ Kind() string }

// Starting says that a server was started, on a port that was free.
type Starting struct {
	URL     string `json:"url"`
	Port    int    `json:"port"`
	PID     int    `json:"pid"`
	Program string `json:"program"`
	Model   Model  `json:"model"`
	Log     string `json:"log"` // empty if there is none
}

// Loading says how long it has been loading.
type Loading struct {
	Seconds float64 `json:"seconds"`
}

// Ready says that it answers.
type Ready struct {
	URL     string   `json:"url"`
	PID     int      `json:"pid"`
	Model   Model    `json:"model"`
	Devices []string `json:"devices"`
	Seconds float64  `json:"seconds"` // that it took
}

// Exit says that it ended, or, with the Reason port, that none could be started.
type Exit struct {
	Code   *int    `json:"code"`   // nil where a signal ended it
	Signal *string `json:"signal"` // SIGSEGV; nil where none did
	Reason Reason  `json:"reason"`
	// Tail are the last lines that it printed.
	Tail []string `json:"tail"`
	Log  string   `json:"log"`

	problem        string // what it said of the reason
	address, model string
	timeout        time.Duration
}

// Warning is what the user should know.
type Warning struct {
	Message string `json:"message"`
}

func (Starting) Kind() string { return "starting" }
func (Loading) Kind() string  { return "loading" }
func (Ready) Kind() string    { return "ready" }
func (Exit) Kind() string     { return "exit" }
func (Warning) Kind() string  { return "warning" }

// A Reason is why a server ended.
type Reason string

// The reasons.
const (
	ReasonStopped  Reason = "stopped"  // it was asked for
	ReasonMemory   Reason = "memory"   // of the GPU, or of the machine
	ReasonPort     Reason = "port"     // it could not listen
	ReasonModel    Reason = "model"    // it could not load it
	ReasonArgument Reason = "argument" // it rejected one
	ReasonTimeout  Reason = "timeout"  // it was not ready in time
	ReasonCrash    Reason = "crash"    // a signal
	ReasonEnded    Reason = "ended"    // anything else
)

// An ExitError is a server that ended without having been asked to.
type ExitError struct{ Exit }

func (e *ExitError) Error() string {
	text := e.sentence()
	if e.problem != "" {
		text += ": " + e.problem
	}
	if len(e.Tail) > 0 {
		where := ""
		if e.Log != "" {
			where = " (all of it is in " + e.Log + ")"
		}
		text += "\nthe end of its log" + where + ":\n" + strings.Join(e.Tail, "\n")
	}
	return text
}

func (e *ExitError) sentence() string {
	switch e.Reason {
	case ReasonMemory:
		return "llama-server ran out of memory"
	case ReasonPort:
		return "llama-server cannot listen on " + e.address
	case ReasonModel:
		return "llama-server cannot load " + e.model
	case ReasonArgument:
		return "llama-server rejected an argument"
	case ReasonTimeout:
		return fmt.Sprintf("llama-server was not ready within %s, and was ended", e.timeout)
	case ReasonCrash:
		return "llama-server was ended by " + *e.Signal
	}
	return fmt.Sprintf("llama-server ended by itself, with exit code %d", *e.Code)
}

// Hint says what helps.
func (e *ExitError) Hint() string {
	switch e.Reason {
	case ReasonMemory:
		return "use a smaller context (-- -c 4096), fewer layers on the GPU (-- -ngl 20) or a smaller quantization, or end other programs that hold memory; nvidia-smi lists those on the GPU"
	case ReasonPort:
		return "leave --port out to take a free one; ss -ltnp shows which program listens on this one"
	case ReasonModel:
		return "the file may be incomplete, or of a kind that this llama.cpp does not know: download it again, or look for a newer release with llcuda-fetch install --update"
	case ReasonArgument:
		return "llcuda-fetch run llama-server --help lists the arguments that can go after --"
	case ReasonTimeout:
		return "--timeout 30m waits longer; the log shows how far it came"
	case ReasonCrash:
		if *e.Signal == "SIGKILL" {
			return "another program killed it, or the machine ran out of memory, which dmesg would show"
		}
		return "llcuda-fetch verify finds damaged files, and llcuda-fetch doctor problems of the driver"
	}
	return "the log may say more; LLAMA_ARG_LOG_VERBOSITY=4 has it say more"
}
