package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

func newEngineCommand(term *terminal, backend Backend) *cobra.Command {
	engine := &cobra.Command{
		Use:   "engine",
		Short: "Start, stop and inspect the built-in engine of this machine",
		Long: `Start, stop and inspect the built-in engine of this machine. It is for Linux as
root, on machines without Docker, Podman or nerdctl.`,
		Example: `  go run ./ci engine up
  go run ./ci engine status --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return console.Usage(errors.New("engine: up, down, status or prune is missing"), "go run ./ci engine --help")
		},
	}
	var choice builtin.Options
	engine.PersistentFlags().StringVar(&choice.Name, "name", "", "which engine, if the machine has several")
	action := func(use, short string, do func(context.Context, BuiltIn) error) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.NoArgs, Example: "  go run ./ci engine " + use,
			RunE: func(cmd *cobra.Command, _ []string) error {
				control, err := backend.BuiltIn(choice)
				if err != nil {
					return err
				}
				return do(cmd.Context(), control)
			},
		}
	}
	note := func(text string) { term.Notef("%s", text) }
	up := action("up", "Start it; the first time, build it",
		func(ctx context.Context, control BuiltIn) error {
			info, err := control.Up(ctx, note)
			if err != nil {
				return err
			}
			printEngine(term, info)
			return nil
		})
	up.Flags().StringVar(&choice.NetNS, "netns", "", "path of the network namespace to run in")
	down := action("down", "Stop it and leave nothing running; what it keeps on disk stays",
		func(ctx context.Context, control BuiltIn) error {
			if err := control.Down(ctx); err != nil {
				return err
			}
			term.Printf("the engine is down")
			return nil
		})
	var asJSON bool
	status := action("status", "Show whether it runs, and what it keeps on disk",
		func(ctx context.Context, control BuiltIn) error {
			info, err := control.Status(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(term, newEngineStatus(info), true)
			}
			printEngine(term, info)
			return nil
		})
	status.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	prune := action("prune", "Free what it keeps on disk",
		func(ctx context.Context, control BuiltIn) error {
			freed, err := control.Prune(ctx)
			if err != nil {
				return err
			}
			term.Printf("freed %s", measure.Bytes(freed))
			return nil
		})
	engine.AddCommand(up, down, status, prune)
	return engine
}

// engineStatus is what engine status --json prints.
type engineStatus struct {
	Name      string `json:"name"`
	Running   bool   `json:"running"`
	Answers   bool   `json:"answers"`
	Host      string `json:"host,omitempty"` // what --engine takes
	Version   string `json:"version,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Dir       string `json:"dir"`
	Log       string `json:"log"`
	DiskUsed  int64  `json:"disk_used"`
	DiskLimit int64  `json:"disk_limit"`
	DiskFree  int64  `json:"disk_free"`
}

func newEngineStatus(i builtin.Info) engineStatus {
	return engineStatus{
		Name: i.Name, Running: i.Running, Answers: i.Answers, Host: i.RunnerHost, Version: i.Version, PID: i.PID,
		Dir: i.StateDir, Log: i.Log, DiskUsed: i.DiskUsed, DiskLimit: i.DiskLimit, DiskFree: i.DiskFree,
	}
}

func printEngine(term *terminal, i builtin.Info) {
	switch {
	case i.Running && i.Answers:
		term.Printf("engine    %s: running, Dagger %s, process %d", i.Name, i.Version, i.PID)
		term.Printf("host      %s", i.RunnerHost)
	case i.Running:
		term.Printf("engine    %s: process %d runs and does not answer; see %s", i.Name, i.PID, i.Log)
	default:
		term.Printf("engine    %s: not running", i.Name)
	}
	if i.DiskFree == 0 {
		return // Up does not measure it
	}
	term.Printf("disk      %s of at most %s in %s; %s free there", measure.Bytes(i.DiskUsed), measure.Bytes(i.DiskLimit), i.StateDir, measure.Bytes(i.DiskFree))
}
