package fetchcli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/matrix"
)

func (a *app) detectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "detect",
		Short: "Show this machine's GPUs, driver and libraries, and how each was detected",
		Long:  "Show this machine's GPUs, driver and libraries, and how each was detected.\n\nThe output of --json is a file for --as-host.",
		Args:  cobra.NoArgs,
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
		disk = bytesText(h.DiskFree) + " free"
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

func (a *app) options(sm string) (fetch.Options, error) {
	o := fetch.Options{Release: a.release, AllowCPU: a.allowCPU}
	variable := ""
	if sm == "" {
		variable = "LLCUDA_SM"
		sm = os.Getenv(variable)
	}
	if sm != "" {
		var err error
		if o.SM, err = matrix.ParseSM(sm); err != nil {
			if variable != "" {
				err = fmt.Errorf("reading %s: %w", variable, err)
			}
			return o, &usageError{err, "llcuda-fetch plan lists the bundles"}
		}
	}
	return o, nil
}

func (a *app) planCommand() *cobra.Command {
	var sm string
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show which bundle would be installed, why, and why no other",
		Args:  cobra.NoArgs,
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
	cmd.Flags().StringVar(&sm, "sm", "", "bundle for this compute capability: 75, sm75 or 7.5; also for the GPU of another machine (LLCUDA_SM)")
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
		how := bytesText(download.Size)
		switch {
		case download.Have >= download.Size:
			how += ", already downloaded"
		case download.Have > 0:
			how += fmt.Sprintf(", %s of it already downloaded", bytesText(download.Have))
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
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.install(cmd.Context(), f) },
	}
	cmd.Flags().StringVar(&f.sm, "sm", "", "bundle for this compute capability: 75, sm75 or 7.5; also for the GPU of another machine (LLCUDA_SM)")
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
		return &usageError{errors.New("--from and --mirror exclude each other"), "give one of them"}
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

func nonNil(list []string) []string { return append([]string{}, list...) }

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
		Args:  cobra.NoArgs,
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
			w := tabwriter.NewWriter(a.term.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "MODEL\tSIZE\tGPU MEMORY\tLICENSE\tCACHED\tFROM")
			for _, m := range models {
				size, memory, here := "?", "?", "no"
				if m.Size > 0 {
					size = bytesText(m.Size)
				}
				if m.VRAM > 0 {
					memory = fmt.Sprintf("%d MiB", m.VRAM)
				}
				if cached, ok := c.Cached(cmd.Context(), m); ok {
					size, here = bytesText(cached.Size), "yes"
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
quantizations or files, or an address copied from a browser:

  llcuda-fetch pull gemma-3-1b-it-Q4_K_M
  llcuda-fetch pull org/repo              Q4_K_M, else Q8_0, else the first file
  llcuda-fetch pull org/repo:Q5_K_M       in upper or lower case; also UD-Q4_K_XL and the like
  llcuda-fetch pull org/repo:folder/file.gguf@revision
  llcuda-fetch pull https://huggingface.co/org/repo/blob/main/file.gguf

All parts of a split model (file-00001-of-00003.gguf) are downloaded, whichever you
name; the path is that of the first, from which llama.cpp finds the others. If the
repository has a projector (mmproj) for the model, that is downloaded, too.`,
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
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd.Context(), "run", args[0], args[1:])
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the program is its own
	return cmd
}

func (a *app) envCommand() *cobra.Command {
	var shell string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the variables with which other programs find the installation",
		Long:  "Print the variables with which other programs find the installation:\n\n  eval \"$(llcuda-fetch env)\"",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				shell = "json"
			}
			formats := map[string]string{"sh": "export %s=%s", "fish": "set -gx %s %s", "json": ""}
			format, ok := formats[shell]
			if !ok {
				return &usageError{fmt.Errorf("there is no shell %q", shell), "sh, fish or json"}
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

// A hinted error has a way out.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }
func (e *hinted) Hint() string  { return e.hint }

func notInstalled(err error) error {
	return &hinted{err, "run llcuda-fetch without a command to install it"}
}

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Verify what is installed, from the signature to the last byte",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("verify")
			if err != nil {
				return err
			}
			current, _, err := c.Verify(cmd.Context())
			var damage *fetch.DamageError
			if errors.As(err, &damage) {
				if a.json {
					return errors.Join(a.print(damage.Findings), err)
				}
				for _, f := range damage.Findings {
					a.term.printf("%s: %s", f.Path, f.Detail)
				}
				return err
			}
			if errors.Is(err, fetch.ErrNotInstalled) {
				return notInstalled(err)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print([]fetch.Finding{})
			}
			a.warnLeftOut(c.Store.LeftOut(current))
			a.term.printf("%s of release %s is as it was published, %s", current.Bundle, current.Release, signedText(current.SignedBy))
			return nil
		},
	}
}

// A listed is an installation as list prints it.
type listed struct {
	fetch.Install
	// Current says that it is this machine's, and Kinds of which kinds of machines it is.
	Current  bool     `json:"current"`
	Kinds    []string `json:"current_for"`
	Folder   string   `json:"path"`
	Programs string   `json:"programs"`
	Size     int64    `json:"size"`
	// Devices are what the programs saw when they were tried, as install prints them; UUIDs are those of the GPUs that CUDA
	// showed.
	Devices []string `json:"devices"`
	UUIDs   []string `json:"uuids"`
	// Withdrawn is why the release was withdrawn; empty if it was not.
	Withdrawn string `json:"withdrawn,omitempty"`
	// LeftOut are the CPU variants that it does without.
	LeftOut []fetch.LeftOut `json:"left_out"`
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the installations",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.client("list")
			if err != nil {
				return err
			}
			installs, err := c.Store.List()
			if err != nil {
				return err
			}
			current, err := c.Store.Current()
			if err != nil && !errors.Is(err, fetch.ErrNotInstalled) {
				return err
			}
			kinds, err := c.Store.Kinds()
			if err != nil {
				return err
			}
			list := []listed{}
			for _, i := range installs {
				i.Mirrors = nonNil(i.Mirrors)
				reason := ""
				if w := new(manifests.WithdrawnError); errors.As(c.Withdrawn(i.Release), &w) {
					reason = w.Reason
				}
				list = append(list, listed{
					Install: i, Current: i.ID == current.ID, Kinds: nonNil(kinds[i.ID]), Folder: c.Store.Dir(i), Programs: c.Programs(i), Size: c.Store.Size(i),
					Devices: nonNil(i.Seen), UUIDs: nonNil(i.Devices), Withdrawn: reason, LeftOut: append([]fetch.LeftOut{}, c.Store.LeftOut(i)...),
				})
			}
			if a.json {
				return a.print(list)
			}
			if len(list) == 0 {
				a.term.notef("nothing is installed in %s", shortPath(c.Store.Home))
				return nil
			}
			seen, damaged := c.Store.SeenPointers()
			for _, s := range seen {
				a.term.notef("the newest release pointer seen is number %d, for %s, until %s, signed by %s", s.Pointer.Number, s.Pointer.Release, s.Pointer.Expires.Format(time.DateOnly), s.Signer)
			}
			for _, l := range list {
				if l.Withdrawn != "" {
					a.term.warnf("release %s was withdrawn: %s; llcuda-fetch install --update installs another one", l.Release, l.Withdrawn)
				}
			}
			w := tabwriter.NewWriter(a.term.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "\tRELEASE\tBUNDLE\tSIZE\tINSTALLED\tFOR\tFROM\tSIGNED BY")
			for _, l := range list {
				mark, machine := "", l.Machine.Kind
				if l.Current {
					mark = "*"
				} else if len(l.Kinds) > 0 {
					machine += ", current there"
				}
				from := cmp.Or(strings.Join(l.Mirrors, " "), "GitHub")
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, l.Release, l.Bundle, bytesText(l.Size), l.Time.Local().Format("2006-01-02 15:04"), machine, from, cmp.Or(l.SignedBy, "nobody"))
			}
			err = errors.Join(w.Flush(), damaged)
			for _, l := range list {
				if l.Current {
					a.warnLeftOut(l.LeftOut)
				}
			}
			return err
		},
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rollback",
		Short: "Go back to the installation before the current one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("rollback")
			if err != nil {
				return err
			}
			i, err := c.Rollback(cmd.Context())
			if errors.Is(err, fetch.ErrNotInstalled) {
				return notInstalled(err)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print(i)
			}
			a.term.printf("%s of release %s is current again", i.Bundle, i.Release)
			return nil
		},
	}
}

func (a *app) pruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove files that neither the current nor the previous installation of any machine needs",
		Long:  "Remove files that neither the current nor the previous installation of any machine needs.\n\nWithout --yes it only lists them.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("prune")
			if err != nil {
				return err
			}
			var items []fetch.Item
			if a.yes {
				items, err = c.Prune(cmd.Context())
			} else {
				items, err = c.Store.Prunable()
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print(append([]fetch.Item{}, items...))
			}
			var total int64
			for _, item := range items {
				a.term.printf("%10s  %s", bytesText(item.Size), item.Path)
				total += item.Size
			}
			switch {
			case len(items) == 0:
				a.term.notef("there is nothing to remove")
			case a.yes:
				a.term.notef("removed %s", bytesText(total))
			default:
				a.term.notef("nothing was removed; llcuda-fetch prune --yes removes these %s", bytesText(total))
			}
			return nil
		},
	}
	return cmd
}

// An uninstalled is what uninstall prints as JSON.
type uninstalled struct {
	Removed bool         `json:"removed"`
	Home    string       `json:"home"`
	Own     []fetch.Item `json:"own"`
	Foreign []string     `json:"foreign"`
	Client  string       `json:"client"`
	// Models are the paths of those that go as well.
	Models []string `json:"models"`
}

func (a *app) uninstallCommand() *cobra.Command {
	var client, models bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove everything that was installed, for all machines that use the store",
		Long: `Remove everything that was installed, for all machines that use the store, and
what was downloaded for it. Other files in the store's folder stay. Models stay in
the cache that huggingface_hub uses; --models also removes those that llcuda-fetch
models lists, no matter which program downloaded them.

Without --yes it only lists what it would remove.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("uninstall")
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			contents, err := c.Store.Contents()
			if err != nil {
				return err
			}
			there := c.Store.Exists()
			var cached []fetch.Model
			if models { // while the store still knows their names
				if cached, err = c.CachedModels(cmd.Context()); err != nil {
					return err
				}
			}
			paths := []string{}
			for _, m := range cached {
				paths = append(paths, m.Path)
				if !a.json {
					a.term.printf("%10s  %s", bytesText(m.Size), m.Path)
				}
				if a.yes {
					if err := c.RemoveModel(m); err != nil {
						return err
					}
				}
			}
			if a.yes && there {
				if contents, err = c.Uninstall(cmd.Context()); err != nil {
					return err
				}
			}
			if a.yes && client {
				if err := os.Remove(program); err != nil {
					return err
				}
			}
			if a.json {
				return a.print(uninstalled{a.yes, c.Store.Home, append([]fetch.Item{}, contents.Own...), nonNil(contents.Foreign), program, paths})
			}
			a.showUninstalled(c.Store.Home, program, contents, there, client)
			return nil
		},
	}
	cmd.Flags().BoolVar(&client, "client", false, "remove this program, too")
	cmd.Flags().BoolVar(&models, "models", false, "remove the models known by name, too, from the cache that other programs share")
	return cmd
}

func (a *app) showUninstalled(home, program string, contents fetch.Contents, there, client bool) {
	var total int64
	for _, item := range contents.Own {
		a.term.printf("%10s  %s", bytesText(item.Size), item.Path)
		total += item.Size
	}
	if client {
		a.term.printf("%10s  %s", "", program)
	}
	for _, name := range contents.Foreign {
		a.term.notef("%s was not made by llcuda-fetch, and stays", filepath.Join(home, name))
	}
	switch {
	case !there:
		a.term.notef("nothing is installed in %s", shortPath(home))
	case a.yes:
		a.term.notef("removed %s from %s", bytesText(total), shortPath(home))
	default:
		a.term.notef("nothing was removed; llcuda-fetch uninstall --yes removes these %s from %s", bytesText(total), shortPath(home))
	}
	if !client {
		a.term.notef("%s stays; --client removes it as well", program)
	}
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check everything that an installation needs, and report what is wrong",
		Args:  cobra.NoArgs,
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

func (a *app) exportCommand() *cobra.Command {
	var sms, models []string
	var to string
	cmd := &cobra.Command{
		Use:   "export --to DIR",
		Short: "Fill a folder to install from without a network",
		Long: `Fill a folder to install from without a network.

  llcuda-fetch export --sm 75,86 --model gemma-3-1b-it-Q4_K_M --to DIR
  llcuda-fetch install --from DIR --offline

The folder is also a mirror: any web server can serve it for --mirror.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return &usageError{errors.New("no folder to export to"), "llcuda-fetch export --to DIR"}
			}
			c, err := a.client("export")
			if err != nil {
				return err
			}
			o := fetch.ExportOptions{Release: a.release, Models: models}
			for _, text := range sms {
				if text == "all" {
					o.SMs = nil
					break
				}
				sm, err := matrix.ParseSM(text)
				if err != nil {
					return &usageError{err, "llcuda-fetch plan lists the bundles"}
				}
				o.SMs = append(o.SMs, sm)
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
				a.term.printf("%10s  %s%s", bytesText(f.Size), f.Name, note)
			}
			a.term.notef("%s in %s; on the other machine: llcuda-fetch install --from DIR", bytesText(total), to)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&sms, "sm", nil, "bundles to export, comma-separated, or all (default all)")
	cmd.Flags().StringArrayVar(&models, "model", nil, "a model to export, named as for pull; repeatable")
	cmd.Flags().StringVar(&to, "to", "", "the folder to fill")
	return cmd
}
