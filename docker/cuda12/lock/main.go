// Command lock resolves packages.in against the mirrors and writes
// packages.lock. It is run by `go generate ./docker/cuda12`; its output is
// reviewed like code.
//
// With --beside LOCK it is a list of packages to add to what that lock has, which is left out.
//
// LLCUDA_DEBIAN_MIRROR, npm_config_registry and PIP_INDEX_URL name other mirrors.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	beside := flag.String("beside", "", "the packages.lock of what is there already")
	flag.Parse()
	if err := regenerate(ctx, "packages.in", "packages.lock", *beside, mirrorsFromEnv(os.Getenv)); err != nil {
		fmt.Fprintln(os.Stderr, "lock:", err)
		os.Exit(1)
	}
}
