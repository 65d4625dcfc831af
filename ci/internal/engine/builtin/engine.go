// Package builtin runs a Dagger engine on a Linux host that has no container
// runtime: it installs the Debian packages the engine needs, compiles the
// engine from the module docker/engine, starts it, and ends it so that nothing
// but caches stays behind. The package ci/internal/engine calls it as the last
// of its three ways to an engine, and `ci engine up|status|down|prune` calls it
// directly.
//
// Given a name, Up returns an Info, whose RunnerHost and CLI are all that a
// Dagger client needs. Engines of different names share nothing but the
// compiled programs: each has its own state folder, socket, bridge, address
// range and control group, and may live in a network namespace of its own.
//
// An engine lives in its own mount and PID namespace. What it writes to /etc,
// /run, /var/lib and /usr/local/share never reaches the host, and when its
// first process ends, however that happens, the kernel ends everything it
// started. What remains of a killed engine (a bridge, firewall rules, control
// groups) is described by a record in /run and removed by the next Up or Down.
//
// The package does not depend on the Dagger SDK, prints nothing, and never ends a process
// that it did not start.
package builtin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// DefaultName is the engine that `ci engine up` and `ci build` use.
const DefaultName = "default"

const (
	// defaultDiskLimit holds the builder (4.2 GB twice: packages and unpacked),
	// the trees of eight SMs and a compiler cache, with room for two llama.cpp
	// versions.
	defaultDiskLimit = 60e9

	// minFreeSpace is what the engine's garbage collector leaves to the host.
	minFreeSpace = 10e9

	// reservedSpace is never collected: less would evict the builder between
	// two builds on a host that is nearly full.
	reservedSpace = 12e9

	// minDiskToStart is refused below: the builder alone would not fit.
	minDiskToStart = 5e9
)

// defaultAnswerTimeout is long because restarting an engine ends another
// user's build: a call takes 0.2 s, or seconds on a machine that is compiling.
const defaultAnswerTimeout = 2 * time.Minute

// namePattern keeps a name usable as a folder, and short enough for the path
// of a Unix socket.
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Options are all optional.
type Options struct {
	// Name tells several engines on one host apart. Empty is DefaultName.
	Name string

	// StateDir holds the engine's cache, configuration and log. Empty is
	// that of the running engine of this name, else
	// llcuda/engine/instances/NAME in the user's cache folder.
	StateDir string

	// BinaryDir holds the compiled engines, one folder for each content of
	// docker/engine, shared by all instances. Empty is llcuda/engine/binaries
	// in the user's cache folder.
	BinaryDir string

	// ModuleDir is the folder docker/engine of a checkout. Empty searches
	// upward from the working folder.
	ModuleDir string

	// NetNS is the path of a network namespace (/run/netns/x) to run in. Empty
	// is the host's, or that of the engine if it runs.
	NetNS string

	// DiskLimit bounds the engine's cache in bytes. The engine collects
	// garbage after each session, so one session can exceed it for a while.
	// Zero is 60 GB.
	DiskLimit int64

	// Nice is added to the niceness of the engine and all it runs.
	Nice int
}

// Info describes one engine.
type Info struct {
	Name    string
	Running bool // its process lives
	Answers bool // a client's call over its socket came back

	// RunnerHost and CLI are the values of _EXPERIMENTAL_DAGGER_RUNNER_HOST and
	// _EXPERIMENTAL_DAGGER_CLI_BIN for a Dagger client; empty unless Running.
	RunnerHost string
	CLI        string

	Version string // of the Dagger engine, such as v0.15.1
	PID     int    // of the first process, seen from the host
	Started time.Time

	StateDir string
	Log      string // the engine's own log file
	NetNS    string // empty for the host's
	Cgroup   string // of all its containers, in every hierarchy
	Bridge   string
	CIDR     string

	DiskLimit int64
	DiskUsed  int64 // by StateDir; only Status measures it
	DiskFree  int64 // on StateDir's file system; only Status measures it
}

// Env returns the environment variables a Dagger client needs to use this
// engine.
func (i Info) Env() []string {
	return []string{
		"_EXPERIMENTAL_DAGGER_CLI_BIN=" + i.CLI,
		"_EXPERIMENTAL_DAGGER_RUNNER_HOST=" + i.RunnerHost,
		"DO_NOT_TRACK=1",
	}
}

// A PreflightError says why this host cannot run the built-in engine. Nothing
// has been changed when it is returned.
type PreflightError struct {
	Problems []string
}

func (e *PreflightError) Error() string {
	return "this host cannot run the built-in engine: " + strings.Join(e.Problems, "; ")
}

// A StartError means that an engine was started and never answered. It
// has been stopped and cleaned up when the error is returned.
type StartError struct {
	Name string
	Log  string   // the engine's log file
	Tail []string // its last lines
	Err  error
}

func (e *StartError) Error() string {
	msg := fmt.Sprintf("starting engine %s: %v (log: %s)", e.Name, e.Err, e.Log)
	if len(e.Tail) > 0 {
		msg += "\n" + strings.Join(e.Tail, "\n")
	}
	return msg
}

func (e *StartError) Unwrap() error { return e.Err }

// An Engine is one named engine on this host, running or not.
type Engine struct {
	opts Options // with every default filled in, but ModuleDir

	// anyState means that the caller named no state folder: a running engine
	// with another one, such as that of a user with another home, is this one.
	anyState bool

	// answerTimeout is how long a running engine may take to answer before Up
	// restarts it.
	answerTimeout time.Duration
}

// A CacheFolderError reports that the environment does not name the folder where an engine keeps its state.
type CacheFolderError struct{ Err error }

func (e *CacheFolderError) Error() string { return "finding the user's cache folder: " + e.Err.Error() }
func (e *CacheFolderError) Unwrap() error { return e.Err }

// Hint is the way out.
func (e *CacheFolderError) Hint() string {
	return "set HOME, or set XDG_CACHE_HOME to a folder of your own"
}

// New fills in the defaults. It touches nothing on the host.
func New(opts Options) (*Engine, error) {
	if opts.Name == "" {
		opts.Name = DefaultName
	}
	if !namePattern.MatchString(opts.Name) {
		return nil, fmt.Errorf("naming the engine %q: a name has 1 to 32 lower-case letters, digits and hyphens", opts.Name)
	}
	anyState := opts.StateDir == ""
	if opts.StateDir == "" || opts.BinaryDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, &CacheFolderError{err}
		}
		if opts.StateDir == "" {
			opts.StateDir = filepath.Join(cache, "llcuda", "engine", "instances", opts.Name)
		}
		if opts.BinaryDir == "" {
			opts.BinaryDir = filepath.Join(cache, "llcuda", "engine", "binaries")
		}
	}
	for _, dir := range []*string{&opts.StateDir, &opts.BinaryDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("resolving %s: %w", *dir, err)
		}
		*dir = abs
	}
	if opts.DiskLimit == 0 {
		opts.DiskLimit = defaultDiskLimit
	}
	if opts.DiskLimit < 0 {
		return nil, errors.New("bounding the engine's disk: the limit is negative")
	}
	return &Engine{opts: opts, anyState: anyState, answerTimeout: defaultAnswerTimeout}, nil
}

// StateDir is where the engine keeps its cache, whether it is there yet or not.
func (e *Engine) StateDir() string {
	if err := e.follow(); err != nil {
		return "" // starting the engine reports the error
	}
	return e.opts.StateDir
}

func (e *Engine) logFile() string { return filepath.Join(e.opts.StateDir, "engine.log") }

// moduleDir finds docker/engine.
func (e *Engine) moduleDir() (string, error) {
	if e.opts.ModuleDir != "" {
		return filepath.Abs(e.opts.ModuleDir)
	}
	cwd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding docker/engine: %w", err)
	}
	for dir := cwd; ; dir = filepath.Dir(dir) {
		module := filepath.Join(dir, "docker", "engine")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			return module, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding docker/engine: neither %s nor a folder above it has it", cwd)
		}
	}
}
