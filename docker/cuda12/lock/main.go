// Command lock resolves packages.in against the mirrors and writes
// packages.lock. It is run by `go generate ./docker/cuda12`; its output is
// reviewed like code.
//
// LLCUDA_DEBIAN_MIRROR and npm_config_registry name other mirrors.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := regenerate(ctx, "packages.in", "packages.lock", mirrorsFromEnv(os.Getenv)); err != nil {
		fmt.Fprintln(os.Stderr, "lock:", err)
		os.Exit(1)
	}
}
