package fetchcli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// smUsage is the help of --sm.
const smUsage = "bundle for this compute capability (75, sm75 or 7.5), or the PTX for newer GPUs (ptx90); also for the GPU of another machine (LLCUDA_SM)"

func (a *app) options(sm string) (fetch.Options, error) {
	o := fetch.Options{Release: a.release, AllowCPU: a.allowCPU}
	variable := ""
	if sm == "" {
		variable = "LLCUDA_SM"
		sm = os.Getenv(variable)
	}
	if sm != "" {
		var err error
		if o.Row, err = matrix.ParseRow(sm); err != nil {
			if variable != "" {
				err = fmt.Errorf("reading %s: %w", variable, err)
			}
			return o, console.Usage(err, "llcuda-fetch plan lists the bundles")
		}
	}
	return o, nil
}

func (a *app) planCommand() *cobra.Command {
	var sm string
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show which bundle would be installed, why, and why no other",
		Example: `  llcuda-fetch plan
  llcuda-fetch plan --sm 75                   # for the GPU of another machine
  llcuda-fetch plan --as-host host.json       # for the machine where detect --json wrote that`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("plan")
			if err != nil {
				return err
			}
			o, err := a.options(sm)
			if err != nil {
				return err
			}
			plan, err := c.Plan(cmd.Context(), o)
			var none *manifests.NoBundleError
			if err != nil && !errors.As(err, &none) {
				return err
			}
			if a.json {
				return errors.Join(a.print(plan), err)
			}
			a.showPlan(plan)
			return err
		},
	}
	cmd.Flags().StringVar(&sm, "sm", "", smUsage)
	return cmd
}

func (a *app) showPlan(p fetch.Plan) {
	d := p.Decision
	a.term.printf("release    %s, %s", p.Release, signedText(p.SignedBy))
	if at := p.Pointer; at != nil {
		a.term.printf("pointer    number %d, until %s, %s, from %s", at.Number, at.Expires.Format(time.RFC3339), signedText(at.SignedBy), at.From)
	}
	switch {
	case d.Bundle == "":
	case d.Absent():
		a.term.printf("bundle     %s, by %s, for a GPU that is not here", d.Bundle, d.Through)
	default:
		a.term.printf("bundle     %s, by %s", d.Bundle, d.Through)
	}
	for _, gpu := range d.GPUs {
		verdict := "not served"
		if gpu.Served {
			verdict = "served"
		}
		a.term.printf("GPU %-6d %s: %s: %s", gpu.Index, cmp.Or(gpu.Name, "a GPU"), verdict, gpu.Reason)
	}
	for _, b := range d.Bundles {
		mark := " "
		if b.Chosen {
			mark = "*"
		}
		a.term.printf("%s %-18s %s", mark, b.Bundle, b.Reason)
	}
	for _, library := range p.Libraries {
		a.term.printf("CUDA       %s from %s: %s", library.Name, library.Source, library.Path)
	}
	for _, download := range p.Downloads {
		how := measure.Bytes(download.Size)
		switch {
		case download.Have >= download.Size:
			how += ", already downloaded"
		case download.Have > 0:
			how += fmt.Sprintf(", %s of it already downloaded", measure.Bytes(download.Have))
		}
		from := "nowhere: offline"
		if len(download.URLs) > 0 {
			from = strings.Join(download.URLs, ", ")
		}
		a.term.printf("download   %s, %s, from %s", download.Asset, how, from)
	}
}

func signedText(by string) string {
	if by == "" {
		return "its signature was not verified"
	}
	return "signed by " + by
}

type installFlags struct {
	sm, from             string
	models               []string
	update, force, older bool
}

func (a *app) installCommand() *cobra.Command {
	var f installFlags
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the bundle for this machine's GPU",
		Example: `  llcuda-fetch install --model gemma-3-1b-it-Q4_K_M
  llcuda-fetch install --update                     # the newest release
  llcuda-fetch install --sm 86                      # in a container image, for a GPU that is not here
  llcuda-fetch install --from DIR --offline         # from a folder that export filled`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.install(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.sm, "sm", "", smUsage)
	cmd.Flags().StringVar(&f.from, "from", "", "a folder that export filled, or its URL")
	cmd.Flags().StringArrayVar(&f.models, "model", nil, "a model to download, too, named as for pull; repeatable")
	cmd.Flags().BoolVar(&f.update, "update", false, "look for the newest release even if one is installed")
	cmd.Flags().BoolVar(&f.force, "force", false, "download and install again what is already installed")
	cmd.Flags().BoolVar(&f.older, "allow-older", false, "accept a release older than the installed one, if that is what the mirror offers")
	return cmd
}

// takeFrom has a client use the folder of --from, if it was given.
func (a *app) takeFrom(c *fetch.Client, folder string) error {
	if folder == "" {
		return nil
	}
	if len(a.mirrors) > 0 {
		return console.Usage(errors.New("--from and --mirror exclude each other"), "give one of them")
	}
	c.Mirrors = []string{folder}
	return nil
}

// An installed is what install prints as JSON.
type installed struct {
	Install  fetch.Install      `json:"install"`
	Already  bool               `json:"already"`
	Folder   string             `json:"folder"`
	Programs string             `json:"programs"`
	Version  string             `json:"llama_cpp"`
	Devices  []string           `json:"devices"`
	Decision manifests.Decision `json:"decision"`
	Models   []fetch.Model      `json:"models"`
}

func (a *app) install(ctx context.Context, f installFlags) error {
	c, err := a.client("install")
	if err != nil {
		return err
	}
	o, err := a.options(f.sm)
	if err != nil {
		return err
	}
	o.Update, o.Force, o.AllowOlder = f.update || f.from != "", f.force, f.older
	if err := a.takeFrom(c, f.from); err != nil {
		return err
	}
	o.Remember = f.from != "" || len(a.mirrors) > 0
	outcome, err := c.Install(ctx, o)
	if err != nil {
		return err
	}
	models := []fetch.Model{}
	for _, name := range f.models {
		m, err := c.Pull(ctx, a.release, name)
		if err != nil {
			return fmt.Errorf("%s is installed; %s is not: %w", outcome.Install.Bundle, name, err)
		}
		models = append(models, m)
	}
	if a.json {
		i := outcome.Install
		return a.print(installed{i, outcome.Already, c.Store.Dir(i), c.Programs(i), i.LlamaCPP, nonNil(i.Seen), outcome.Decision, models})
	}
	a.showInstalled(c, outcome)
	for _, m := range models {
		a.showModel(m)
	}
	model := "gemma-3-1b-it-Q4_K_M"
	if len(models) > 0 {
		model = cmp.Or(models[0].Name, models[0].Path)
		if models[0].Projector != "" {
			model = models[0].Ref // by which run finds the projector, too
		}
	}
	a.term.printf("run it:    llcuda-fetch run llama-server -m %s", model)
	return nil
}

// showInstalled says what is there now.
func (a *app) showInstalled(c *fetch.Client, o fetch.Outcome) {
	i := o.Install
	how := "installed"
	if o.Already {
		how = "is installed"
	}
	a.term.printf("%s of release %s %s in %s", i.Bundle, i.Release, how, shortPath(c.Store.Dir(i)))
	if o.Already {
		return
	}
	a.term.printf("llama.cpp  %s, %s", cmp.Or(o.Probe.Version, "of unknown version"), signedText(i.SignedBy))
	for _, device := range o.Probe.Devices {
		a.term.printf("GPU        %s", device)
	}
	if i.Through == manifests.ThroughCPU {
		a.term.printf("GPU        none: it runs on the CPU")
	}
	a.warnLeftOut(o.Probe.LeftOut)
	if i.Through == manifests.ThroughPTX {
		a.term.notef("the first start takes minutes: the driver compiles the bundle's PTX for this GPU, once")
	}
	for _, gpu := range o.Decision.GPUs {
		if !gpu.Served && i.Through != manifests.ThroughCPU {
			a.term.warnf("%s is left out: %s", cmp.Or(gpu.Name, "a GPU"), gpu.Reason)
		}
	}
}

// warnLeftOut names the CPU variants that an installation does without.
func (a *app) warnLeftOut(list []fetch.LeftOut) {
	for _, out := range list {
		a.term.warnf("%s; the next best is used", out)
	}
}
