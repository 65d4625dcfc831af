// Command ci is the maintainers' tool of the farm: go run ./ci <command>.
package main

import (
	"os"

	"github.com/waqasm86/llcuda-farm/ci/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Engines()))
}
