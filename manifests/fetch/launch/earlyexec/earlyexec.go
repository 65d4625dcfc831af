// Package earlyexec runs the program that `llcuda-fetch run` asks for before the rest of
// llcuda-fetch is initialized, which would take several times as long as starting a process:
// BenchmarkRun of llcuda-fetch measures it.
//
// main imports it for its init function. Where the command line asks for nothing but an installed
// program, init replaces the process with that program; otherwise it does nothing, and main does
// the same and more, or reports what is wrong.
//
// Go initializes packages in the order of their import paths, each once its own imports are
// initialized (https://go.dev/ref/spec#Package_initialization). So this package runs first because
// it imports next to nothing, and none of what it imports may come after the packages that verify
// signatures. A test of llcuda-fetch checks that it does.
package earlyexec

import (
	"os"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/home"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

func init() {
	if given, arguments, ok := parse(os.Args[1:]); ok {
		start(given, arguments)
	}
}

// parse takes a command line apart, if it is one of `run` with at most --home: into the store's
// folder as given, and the program with its arguments.
func parse(args []string) (given string, program []string, ok bool) {
	const assigned = "--home="
	run := false
	for i := 0; i < len(args); i++ {
		switch {
		case len(args[i]) > len(assigned) && args[i][:len(assigned)] == assigned:
			given = args[i][len(assigned):]
		case args[i] == "--home" && i+1 < len(args):
			i++
			given = args[i]
		case args[i] == "run" && !run:
			run = true
		default:
			return given, args[i:], run && (args[i] == "" || args[i][0] != '-')
		}
	}
	return "", nil, false
}

// start returns only where there is more to do, or something is amiss.
func start(given string, arguments []string) {
	if given == "" {
		given = os.Getenv("LLCUDA_HOME")
	}
	store, err := home.Store(given, os.Getenv)
	if err != nil || os.Getenv(launch.BackendPath) != "" {
		return
	}
	// Another release or bundle than the current one may be asked for.
	if os.Getenv("LLCUDA_RELEASE") != "" || os.Getenv("LLCUDA_SM") != "" {
		return
	}
	if _, distrusted := launch.Distrust(store); distrusted {
		return
	}
	installation, ok := launch.Current(store, launch.ThisMachine(os.LookupEnv))
	if !ok || len(launch.Models(arguments)) > 0 {
		return
	}
	if program, ok := installation.Program(arguments[0]); ok {
		_ = installation.Exec(program, arguments[1:]) // main tries again, and says why it cannot
	}
}
