// Command tool runs one of Python's tools, in the version that requirements.lock names: go run ./manifests/python/tool ruff check.
package main

import (
	"log"
	"os"
	"path/filepath"
	"syscall"

	"github.com/waqasm86/llcuda-farm/manifests/python/pythontest"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("want a tool and its arguments")
	}
	environment, err := pythontest.Environment()
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(syscall.Exec(filepath.Join(environment, "bin", os.Args[1]), os.Args[1:], os.Environ()))
}
