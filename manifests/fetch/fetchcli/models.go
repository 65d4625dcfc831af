package fetchcli

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A listedModel is a model as models prints it. The size is that of the file that is here, where there is one.
type listedModel struct {
	matrix.Model
	Cached bool    `json:"cached"`
	Path   *string `json:"path"`
}

func (a *app) modelsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "models",
		Short: "List the models known by name",
		Example: `  llcuda-fetch models
  llcuda-fetch models --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("models")
			if err != nil {
				return err
			}
			models, err := c.Models(cmd.Context(), a.release)
			if err != nil {
				return err
			}
			if a.json {
				list := []listedModel{}
				for _, m := range models {
					cached, ok := c.Cached(cmd.Context(), m)
					row := listedModel{Model: m, Cached: ok}
					if ok {
						row.Size, row.Path = cached.Size, &cached.Path
					}
					list = append(list, row)
				}
				return a.print(list)
			}
			w := tabwriter.NewWriter(a.term.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "MODEL\tSIZE\tGPU MEMORY\tLICENSE\tCACHED\tFROM")
			for _, m := range models {
				size, memory, here := "?", "?", "no"
				if m.Size > 0 {
					size = measure.Bytes(m.Size)
				}
				if m.VRAM > 0 {
					memory = fmt.Sprintf("%d MiB", m.VRAM)
				}
				if cached, ok := c.Cached(cmd.Context(), m); ok {
					size, here = measure.Bytes(cached.Size), "yes"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, size, memory, m.Licence, here, m.Repo)
			}
			return w.Flush()
		},
	}
}

func (a *app) pullCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "pull NAME | org/repo[:QUANT | :file.gguf][@revision] | ADDRESS",
		Short: "Download a model into the cache that huggingface_hub uses",
		Long: `Download a model into the cache that huggingface_hub uses, and print its path.

Name a model that llcuda-fetch models lists, a repository on the Hub, one of its
quantizations or files, or an address copied from a browser.

All parts of a split model (file-00001-of-00003.gguf) are downloaded, whichever you
name; the path is that of the first, from which llama.cpp finds the others. If the
repository has a projector (mmproj) for the model, that is downloaded, too.`,
		Example: `  llcuda-fetch pull gemma-3-1b-it-Q4_K_M
  llcuda-fetch pull org/repo              # Q4_K_M, else Q8_0, else the first file
  llcuda-fetch pull org/repo:Q5_K_M       # in upper or lower case; also UD-Q4_K_XL and the like
  llcuda-fetch pull org/repo:folder/file.gguf@revision
  llcuda-fetch pull https://huggingface.co/org/repo/blob/main/file.gguf`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client("pull")
			if err != nil {
				return err
			}
			m, err := c.Pull(cmd.Context(), a.release, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.print(m)
			}
			a.showModel(m)
			return nil
		},
	}
}

func (a *app) showModel(m fetch.Model) {
	a.term.printf("%s", m.Path)
	if m.Projector != "" {
		a.term.notef("its projector, for --mmproj, is %s", m.Projector)
	}
	if m.Unasked != "" {
		a.term.warnf("the Hub did not answer; using the cache: %s", m.Unasked)
	}
	if m.Layers >= 0 {
		a.term.notef("run it with -ngl %d: %s", m.Layers, m.Why)
	}
}

func (a *app) exportCommand() *cobra.Command {
	var rows, models []string
	var to string
	cmd := &cobra.Command{
		Use:   "export --to DIR",
		Short: "Fill a folder to install from without a network",
		Long: `Fill a folder to install from without a network.

The folder is also a mirror: any web server can serve it for --mirror.`,
		Example: `  llcuda-fetch export --sm 75,86 --model gemma-3-1b-it-Q4_K_M --to DIR
  llcuda-fetch install --from DIR --offline    # on the other machine`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return console.Usage(errors.New("no folder to export to"), "llcuda-fetch export --to DIR")
			}
			c, err := a.client("export")
			if err != nil {
				return err
			}
			o := fetch.ExportOptions{Release: a.release, Models: models}
			for _, text := range rows {
				if text == "all" {
					o.Rows = nil
					break
				}
				row, err := matrix.ParseRow(text)
				if err != nil {
					return console.Usage(err, "llcuda-fetch plan lists the bundles")
				}
				o.Rows = append(o.Rows, row)
			}
			files, err := c.Export(cmd.Context(), to, o)
			if err != nil {
				return err
			}
			if a.json {
				return a.print(files)
			}
			var total int64
			for _, f := range files {
				total += f.Size
				note := ""
				if f.Already {
					note = ", already there"
				}
				a.term.printf("%10s  %s%s", measure.Bytes(f.Size), f.Name, note)
			}
			a.term.notef("%s in %s; on the other machine: llcuda-fetch install --from DIR", measure.Bytes(total), to)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&rows, "sm", nil, "bundles to export, comma-separated, or all (default all)")
	cmd.Flags().StringArrayVar(&models, "model", nil, "a model to export, named as for pull; repeatable")
	cmd.Flags().StringVar(&to, "to", "", "the folder to fill")
	return cmd
}
