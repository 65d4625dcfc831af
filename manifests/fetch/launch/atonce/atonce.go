// Package atonce starts the program that `llcuda-fetch run` asks for before the rest of llcuda-fetch is initialised.
//
// main imports it for its init function, which makes the process the program where a command line asks for nothing but an
// installed program, and does nothing otherwise: then main runs, and does the same or more, or says what is amiss. That
// it comes first is the language's word: packages are initialised in the order of their import paths, each as soon as all
// that it imports is (https://go.dev/ref/spec#Package_initialization), and this one imports next to nothing, where what
// verifies signatures imports half of what there is. A test of llcuda-fetch holds it to that.
package atonce

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

// parse takes a command line apart, if it is one of `run` with at most --home: into the store's folder as given, and the
// program with its arguments.
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
	installation, ok := launch.Current(store, launch.Here(os.LookupEnv))
	if !ok || len(launch.Models(arguments)) > 0 {
		return
	}
	if program, ok := installation.Program(arguments[0]); ok {
		_ = installation.Exec(program, arguments[1:]) // main tries again, and says why it cannot
	}
}
