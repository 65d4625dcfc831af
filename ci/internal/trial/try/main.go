// Command try tries the CPU variants of a bundle's folder, in the containers of the farm: go run ./ci try is the same for
// people. It prints a line for each variant and writes those that this CPU cannot run to a file, a line each.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/trial"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Println(err)
		if failed, ok := errors.AsType[*trial.FailedError](err); ok {
			fmt.Println("hint: " + failed.Hint())
		}
		os.Exit(1)
	}
}

func run(dir, lacking string) error {
	report, err := trial.Run(context.Background(), dir, func(r trial.Result) { fmt.Println(r) })
	if err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return err
	}
	return os.WriteFile(lacking, []byte(strings.Join(report.Lacking(), "\n")), 0o644)
}
