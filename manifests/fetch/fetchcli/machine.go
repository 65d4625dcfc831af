package fetchcli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

func (a *app) detectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "detect",
		Short: "Show this machine's GPUs, driver and libraries, and how each was detected",
		Long:  "Show this machine's GPUs, driver and libraries, and how each was detected.\n\nThe output of --json is a file for --as-host.",
		Example: `  llcuda-fetch detect
  llcuda-fetch detect --json > host.json    # for --as-host of another command`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("detect")
			if err != nil {
				return err
			}
			host, sources, err := c.Detect(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				data, err := host.Encode()
				if err == nil {
					a.term.printf("%s", strings.TrimSuffix(string(data), "\n"))
				}
				return err
			}
			a.showHost(host, sources)
			return nil
		},
	}
}

// showHost is the machine for a person.
func (a *app) showHost(h manifests.Host, sources []fetch.Source) {
	unknown := func(s string) string { return cmp.Or(s, "unknown") }
	for _, gpu := range h.GPUs {
		a.term.printf("GPU %-6d %s", gpu.Index, gpuText(gpu))
	}
	switch {
	case h.CUDA.Problem != "":
		a.term.printf("GPU        %s", h.CUDA.Problem)
		a.term.notef("hint: %s", h.CUDA.Way)
	case len(h.GPUs) == 0:
		a.term.printf("GPU        no NVIDIA GPU was found")
	}
	for _, variable := range h.CUDA.Environment {
		a.term.printf("set        %s", variable)
	}
	driver := "none is loaded"
	if h.Driver.Version != "" {
		driver = h.Driver.Version
		if h.Driver.CUDA != "" {
			driver += ", for CUDA up to " + h.Driver.CUDA
		}
	}
	a.term.printf("driver     %s", driver)
	a.term.printf("platform   %s, %s, %s/%s, kernel %s", h.Platform, cmp.Or(h.Distribution, "unknown distribution"), h.OS, h.Arch, unknown(h.Kernel))
	libraries := fmt.Sprintf("glibc %s, GLIBCXX %s", unknown(h.Glibc), unknown(h.GLIBCXX))
	if h.LibStdCXX != "" {
		libraries += " from " + h.LibStdCXX
	}
	a.term.printf("libraries  %s", libraries)
	a.term.printf("CPU        %s", unknown(h.CPU.Model))
	disk := "unknown"
	if h.DiskFree >= 0 {
		disk = measure.Bytes(h.DiskFree) + " free"
	}
	a.term.printf("disk       %s", disk)
	for _, library := range h.CUDALibraries {
		a.term.printf("CUDA       %s from %s: %s", library.Name, library.Source, library.Path)
	}
	if len(h.CUDALibraries) == 0 {
		a.term.printf("CUDA       no CUDA 12 libraries; install downloads them")
	}
	for _, s := range sources {
		switch {
		case s.Problem != "" && s.Gave != "":
			a.term.notef("asked      %s: %s; %s", s.Name, s.Gave, s.Problem)
		default:
			a.term.notef("asked      %s: %s", s.Name, cmp.Or(s.Problem, s.Gave))
		}
	}
}

func gpuText(gpu manifests.GPU) string {
	text := cmp.Or(gpu.Name, "a GPU without a name")
	if gpu.SM != 0 {
		text += ", compute capability " + gpu.SM.Capability()
	}
	if gpu.MemoryMiB > 0 {
		text += fmt.Sprintf(", %d MiB", gpu.MemoryMiB)
	}
	if gpu.MIG {
		text += ", MIG"
	}
	if gpu.UUID != "" {
		text += ", " + gpu.UUID
	}
	return text
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that an installation needs, and report what is wrong",
		Example: `  llcuda-fetch doctor
  llcuda-fetch doctor --as-host host.json    # what another machine would run into`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("doctor")
			if err != nil {
				return err
			}
			checks, err := c.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			failed := 0
			for _, check := range checks {
				if check.Status == fetch.StatusFail {
					failed++
				}
				if a.json {
					continue
				}
				const indent = "                 "
				a.term.printf("%-4s  %-10s %s", check.Status, check.Name, strings.ReplaceAll(check.Said, "\n", "\n"+indent))
				if check.Hint != "" {
					a.term.printf("%shint: %s", indent, check.Hint)
				}
			}
			if a.json {
				if err := a.print(checks); err != nil {
					return err
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d checks failed", failed, len(checks))
			}
			return nil
		},
	}
}
