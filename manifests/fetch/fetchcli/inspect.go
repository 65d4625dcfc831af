package fetchcli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

func (a *app) inspectCommand() *cobra.Command {
	var o fetch.InspectOptions
	cmd := &cobra.Command{
		Use:   "inspect FILE | NAME...",
		Short: "Show what a model is, and how much memory it needs",
		Long: `Show what a model is, and how much memory it needs: a GGUF file, or a model named as
for pull. inspect downloads nothing, and reads only the header of a file.

With --json it prints one object, or a list of objects for several models.`,
		Example: `  llcuda-fetch inspect gemma-3-1b-it-Q4_K_M
  llcuda-fetch inspect model-00001-of-00003.gguf --ctx 32768
  llcuda-fetch inspect model.gguf --memory 15360,15360    # two GPUs, here or elsewhere`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client("inspect")
			if err != nil {
				return err
			}
			if o.Context < 0 {
				return console.Usage(fmt.Errorf("--ctx is %d, and must be a number of tokens", o.Context), "llcuda-fetch inspect --help")
			}
			for _, mib := range o.Memory {
				if mib < 0 {
					return console.Usage(fmt.Errorf("--memory has %d, and must be numbers of MiB", mib), "llcuda-fetch inspect --help")
				}
			}
			o.Release = a.release
			list, err := c.Inspect(cmd.Context(), args, o)
			switch {
			case err != nil:
				return err
			case a.json && len(list) == 1:
				return a.print(list[0])
			case a.json:
				return a.print(list)
			}
			for n, i := range list {
				if n > 0 {
					a.term.printf("")
				}
				a.showInspection(i)
			}
			return nil
		},
	}
	cmd.Flags().Int64Var(&o.Context, "ctx", 0, "compute for a context of this many `tokens` (default: 4096, or what the model was trained with, if that is less)")
	cmd.Flags().IntSliceVar(&o.Memory, "memory", nil, "compute for GPUs with this many `MiB` each, comma-separated (default: those of this machine)")
	return cmd
}

// showInspection is a model for a person.
func (a *app) showInspection(i fetch.Inspection) {
	a.term.printf("model      %s", i.Name)
	if m := i.Registry; m != nil {
		a.term.printf("from       %s:%s, license %s", m.Repo, m.File, m.Licence)
	}
	if i.Path == nil {
		if i.Size != nil {
			a.term.printf("size       %s", measure.Bytes(*i.Size))
		}
		if i.Registry.VRAM > 0 {
			a.term.printf("needs      %d MiB of GPU memory", i.Registry.VRAM)
		}
		a.term.printf("file       %s", i.Why)
		return
	}
	a.term.printf("file       %s, %s", shortPath(*i.Path), measure.Bytes(*i.Size))
	kind := []string{*i.Architecture, fmt.Sprintf("%d parameters", *i.Parameters), fmt.Sprintf("%d layers", *i.Layers)}
	if i.Quantisation != nil {
		kind = append(kind, *i.Quantisation)
	}
	if i.Embedding != nil {
		kind = append(kind, fmt.Sprintf("embeddings of %d", *i.Embedding))
	}
	if i.Vocabulary != nil {
		kind = append(kind, fmt.Sprintf("%d tokens", *i.Vocabulary))
	}
	a.term.printf("kind       %s", strings.Join(kind, ", "))
	template := "has no chat template"
	if *i.ChatTemplate {
		template = "has a chat template"
	}
	a.term.printf("chat       %s", template)
	if i.Context != nil {
		a.term.printf("context    trained with %d tokens", *i.Context)
	}
	const mib = 1 << 20
	a.term.printf("needs      %d MiB of GPU memory for all layers and %d tokens", (i.Needs.Total+mib-1)/mib, i.Needs.Context)
	if i.NGL == nil {
		a.term.printf("-ngl       no advice: %s", i.Why)
		return
	}
	a.term.printf("-ngl       %d: %s", *i.NGL, i.Why)
	if *i.ContextFit > 0 {
		a.term.printf("-c         up to %d tokens with all layers", *i.ContextFit)
	}
}
