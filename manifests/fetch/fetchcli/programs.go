package fetchcli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

func (a *app) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run PROGRAM [argument...]",
		Short: "Run one of llama.cpp's programs",
		Long: `Run one of llama.cpp's programs: llama-server, llama-cli, llama-bench, llama-quantize.

The arguments are the program's own, except that a model named as for pull is
replaced with its file: after -m, -md, --mmproj, --lora and --control-vector. -hf,
-hff, -hfd and -mu become -m and -md. If a model's repository has a projector, run
adds it as --mmproj, unless you give --no-mmproj.

If nothing is installed yet, run installs it first. If the installation does not
serve the GPUs that CUDA shows now, run repairs it or does not start the program: it
never uses the CPU, or code for another GPU, unless you ask for that.`,
		Example: `  llcuda-fetch run llama-bench -m gemma-3-1b-it-Q4_K_M
  llcuda-fetch run llama-cli -m org/repo:Q4_K_M -p "Why is the sky blue?"
  llcuda-fetch --allow-cpu run llama-cli --version    # flags of llcuda-fetch go before the program`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), "run", args[0], args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the program is its own
	return cmd
}

func (a *app) chatCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "chat MODEL [-- argument...]",
		Short: "Talk to a model in the terminal: run llama-cli -m MODEL",
		Long: `Talk to a model in the terminal: run llama-cli -m MODEL.

The model is a file, or named as for pull; what is missing is installed and
downloaded first. Arguments after -- are llama-cli's own.`,
		Example: `  llcuda-fetch chat gemma-3-1b-it-Q4_K_M
  llcuda-fetch chat org/repo:Q4_K_M -- -c 8192`,
		Args: a.oneModel,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), "chat", "llama-cli", append([]string{"-m", args[0]}, args[1:]...))
		},
	}
}

// oneModel wants one argument in front of --.
func (a *app) oneModel(cmd *cobra.Command, args []string) error {
	own := len(args)
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		own = dash
	}
	switch {
	case own == 0:
		return errors.New("no model: llcuda-fetch models lists those known by name")
	case own > 1:
		return fmt.Errorf("there is a second argument, %q, after the model; the program's own arguments go after --", args[1])
	}
	return nil
}

// run makes this process one of llama.cpp's programs, which is installed first if need be.
func (a *app) run(ctx context.Context, command, program string, arguments []string) error {
	c, err := a.client(command)
	if err != nil {
		return err
	}
	current, err := a.installed(ctx, c)
	if err != nil {
		return err
	}
	path, err := c.Program(current, program)
	if err != nil {
		return err
	}
	if arguments, err = c.Arguments(ctx, program, arguments, os.Getenv); err != nil {
		return err
	}
	// The point of no return: from here on this process is the program.
	return fmt.Errorf("starting %s: %w", path, c.Store.Programs(current).Exec(path, arguments))
}

// installed makes sure that a bundle is installed to start programs from.
func (a *app) installed(ctx context.Context, c *fetch.Client) (fetch.Install, error) {
	o, err := a.options("")
	if err != nil {
		return fetch.Install{}, err
	}
	outcome, err := c.Install(ctx, o)
	if err != nil {
		return fetch.Install{}, err
	}
	if !outcome.Already {
		a.term.notef("%s of release %s is installed for this machine", outcome.Install.Bundle, outcome.Install.Release)
	}
	if backend := os.Getenv(launch.BackendPath); backend != "" {
		a.term.notef("%s is set: llama.cpp loads %s beside its own backends", launch.BackendPath, backend)
	}
	return outcome.Install, nil
}

func (a *app) envCommand() *cobra.Command {
	var shell string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the variables with which other programs find the installation",
		Example: `  eval "$(llcuda-fetch env)"
  llcuda-fetch env --shell fish | source`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				shell = "json"
			}
			formats := map[string]string{"sh": "export %s=%s", "fish": "set -gx %s %s", "json": ""}
			format, ok := formats[shell]
			if !ok {
				return console.Usage(fmt.Errorf("there is no shell %q", shell), "sh, fish or json")
			}
			c, err := a.client("env")
			if err != nil {
				return err
			}
			if err := c.Store.Trusted(); err != nil {
				return err
			}
			current, err := c.Store.Current()
			if err != nil {
				return notInstalled(err)
			}
			variables := c.Environment(current)
			if format == "" {
				object := map[string]string{}
				for _, v := range variables {
					object[v[0]] = v[1]
				}
				return a.print(object)
			}
			for _, v := range variables {
				a.term.printf(format, v[0], quoted(v[1], shell))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&shell, "shell", "sh", "sh, fish or json")
	return cmd
}

// quoted is a value that a shell takes as it is.
func quoted(value, shell string) string {
	if shell == "fish" {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
