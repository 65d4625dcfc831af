package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/python"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

// selection is what the user chose to build.
type selection struct {
	sms   []string
	llama string
	cache string
}

func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.sms, "sm", nil, `what to build: "all", or a comma-separated list such as 75,sm86,8.9,ptx90`)
	cmd.Flags().StringVar(&s.llama, "llama", "", "llama.cpp: a git URL, folder, tarball or git bundle file, with @tag-or-commit; (default: the pin of matrix.yaml)")
	cacheFlag(cmd, &s.cache)
}

func cacheFlag(cmd *cobra.Command, cache *string) {
	cmd.Flags().StringVar(cache, "cache", "", "folder for sources, packages and downloads (default: llcuda in the user cache)")
}

// targets reads the matrix and selects its rows.
func (s *selection) targets() (matrix.Matrix, []matrix.Target, error) {
	m, err := spec.Default()
	if err != nil {
		return matrix.Matrix{}, nil, fmt.Errorf("reading the matrix: %w", err)
	}
	targets, err := m.Select(s.sms...)
	if err != nil {
		return matrix.Matrix{}, nil, console.Usage(fmt.Errorf("--sm: %w", err), "go run ./ci plan --sm all lists them")
	}
	return m, targets, nil
}

// openCache readies the cache folder; the selection names it afterwards.
func (s *selection) openCache() (err error) {
	s.cache, err = openCache(s.cache)
	return err
}

// resolve finds the source tree.
func (s *selection) resolve(ctx context.Context, m matrix.Matrix, term *terminal) (farm.Source, error) {
	if err := s.openCache(); err != nil {
		return farm.Source{}, err
	}
	set, err := patches.Default()
	if err != nil {
		return farm.Source{}, err
	}
	src, err := farm.ResolveSource(ctx, s.llama, m.LlamaCPP, set, filepath.Join(s.cache, "sources"), func(text string) {
		term.Notef("source    %s", text)
	})
	for _, text := range src.Warnings {
		term.Warnf("%s", text)
	}
	return src, err
}

// plannedJob is one row of plan --json.
type plannedJob struct {
	Row           matrix.Row `json:"sm"`
	Toolkit       string     `json:"toolkit"` // by name
	Bundle        string     `json:"bundle"`
	Runtime       string     `json:"runtime"` // the one that serves the bundle
	Architecture  string     `json:"architecture"`
	GPUs          []string   `json:"gpus"`
	Platforms     []string   `json:"platforms"`
	Architectures string     `json:"cmake_cuda_architectures"`
	PTX           bool       `json:"ptx"`
}

// plannedSource is the source of plan --json: the pin, or the tree it leads to.
type plannedSource struct {
	Given   string `json:"given"`
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Build   int    `json:"build,omitempty"`
	Digest  string `json:"digest,omitempty"`
	Epoch   int64  `json:"source_date_epoch,omitempty"`
	// Patches are those that the tree gets; of the pin, the whole set.
	Patches []manifests.Patch `json:"patches"`
}

// plan is what plan --json prints.
type plan struct {
	LlamaCPP plannedSource `json:"llama_cpp"`
	// Toolkits are those of the jobs.
	Toolkits []matrix.Toolkit `json:"toolkits"`
	Floors   matrix.Floors    `json:"floors"`
	Jobs     []plannedJob     `json:"jobs"`
	// Runtimes are the CUDA runtimes that the bundles need, by their archives' names without the digest.
	Runtimes []string `json:"runtimes"`
	// Wheels are those of the Python package, by their names.
	Wheels []string `json:"wheels"`
}

// actionsMatrix is the form in which GitHub Actions takes a matrix.
type actionsMatrix struct {
	Include []actionsJob `json:"include"`
}

// actionsJob is what one runner builds.
type actionsJob struct {
	Step  string `json:"step"`
	Steps string `json:"steps"` // that, and the runtime, as build --only takes them
	// Runtime is the runtime step that this job runs, too; empty if there is none. It takes seconds, and a runner of its own
	// would take minutes to get ready.
	Runtime string `json:"runtime"`
}

func newPlanCommand(term *terminal, backend Backend) *cobra.Command {
	var chosen selection
	var asJSON, asGitHub bool
	cmd := &cobra.Command{
		Use:   "plan --sm SM",
		Short: "Show what would be built",
		Long: `Show what would be built: one row for each SM.

It needs no engine, and no network unless --llama names a source to look at.`,
		Example: `  go run ./ci plan --sm 75
  go run ./ci plan --sm all --llama https://github.com/ggml-org/llama.cpp@master --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON && asGitHub {
				return console.Usage(errors.New("--json and --github exclude each other"), "give one of them")
			}
			m, targets, err := chosen.targets()
			if err != nil {
				return err
			}
			src, err := pinnedSource(m.LlamaCPP)
			if err != nil {
				return err
			}
			if chosen.llama != "" {
				resolved, err := chosen.resolve(cmd.Context(), m, term)
				if err != nil {
					return err
				}
				if err := backend.Buildable(resolved); err != nil {
					return err
				}
				src = foundSource(resolved)
			}
			p, err := newPlan(m, targets, src)
			if err != nil {
				return err
			}
			switch {
			case asGitHub:
				jobs, err := actionsJobs(m, targets)
				if err != nil {
					return err
				}
				return printJSON(term, actionsMatrix{jobs}, false)
			case asJSON:
				return printJSON(term, p, true)
			}
			term.Printf("%s", p.table())
			return nil
		},
	}
	chosen.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&asGitHub, "github", false, "print the matrix of a GitHub Actions job: the steps that each runner builds")
	return cmd
}

func pinnedSource(pin matrix.LlamaPin) (plannedSource, error) {
	set, err := patches.Default()
	src := plannedSource{Given: pin.Repository + "@" + pin.Ref, Version: pin.Version, Commit: pin.Commit, Patches: []manifests.Patch{}}
	for _, p := range set {
		src.Patches = append(src.Patches, manifests.Patch{Name: p.Name, SHA256: p.SHA256})
	}
	return src, err
}

func foundSource(src farm.Source) plannedSource {
	return plannedSource{Given: src.Given, Version: src.Version, Commit: src.Commit, Build: src.Build, Digest: src.Digest, Epoch: src.Epoch.Unix(),
		Patches: append([]manifests.Patch{}, src.Patches...)}
}

func newPlan(m matrix.Matrix, targets []matrix.Target, src plannedSource) (plan, error) {
	version, err := python.Version()
	if err != nil {
		return plan{}, err
	}
	p := plan{LlamaCPP: src, Floors: m.Floors, Wheels: wheel.Names(version)}
	for _, target := range targets {
		toolkit, _ := m.ToolkitOf(target) // Check has seen to it
		if !slices.Contains(p.Toolkits, toolkit) {
			p.Toolkits = append(p.Toolkits, toolkit)
		}
		runtime := manifests.RuntimeTop(toolkit.Runtime(target.Row()))
		if !slices.Contains(p.Runtimes, runtime) {
			p.Runtimes = append(p.Runtimes, runtime)
		}
		p.Jobs = append(p.Jobs, plannedJob{
			Row: target.Row(), Toolkit: target.Toolkit, Bundle: manifests.BundleName(target.Row()), Runtime: runtime, Architecture: target.Architecture, GPUs: target.GPUs,
			Platforms: target.Platforms, Architectures: target.CMakeArchitectures(), PTX: target.PTX,
		})
	}
	return p, nil
}

// actionsJobs are the host step and each device step on a runner of its own, and each runtime step beside the first device
// step that needs it.
func actionsJobs(m matrix.Matrix, targets []matrix.Target) ([]actionsJob, error) {
	steps, err := plannedSteps(m, targets)
	if err != nil {
		return nil, err
	}
	var jobs []actionsJob
	for _, step := range steps {
		job := actionsJob{Step: step.Name(), Steps: step.Name()}
		switch step.Kind {
		case farm.StepRuntime:
			continue
		case farm.StepDevice:
			runtime := farm.Step{Kind: farm.StepRuntime, Runtime: step.Recipe.Toolkit.Runtime(step.Target.Row())}.Name()
			if !slices.ContainsFunc(jobs, func(j actionsJob) bool { return j.Runtime == runtime }) {
				job.Runtime, job.Steps = runtime, job.Steps+","+runtime
			}
		}
		jobs = append(jobs, job)
	}
	return jobs, nil
}

func (p plan) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "llama.cpp %s from %s", p.LlamaCPP.Version, p.LlamaCPP.Given)
	if p.LlamaCPP.Commit != "" {
		fmt.Fprintf(&b, "\n          commit %s", p.LlamaCPP.Commit)
	}
	if p.LlamaCPP.Digest != "" {
		fmt.Fprintf(&b, "\n          tree %s", p.LlamaCPP.Digest)
	}
	for _, patch := range p.LlamaCPP.Patches {
		fmt.Fprintf(&b, "\n          patched by %s", patch.Name)
	}
	for _, k := range p.Toolkits {
		fmt.Fprintf(&b, "\n%-9s CUDA %s, nvcc %s; drivers from %s", k.Name, k.CUDA, k.NVCC, k.DriverCubin)
		if k.DriverPTX != "" {
			fmt.Fprintf(&b, ", for PTX from %s", k.DriverPTX)
		}
	}
	b.WriteByte('\n')
	fmt.Fprintf(&b, "systems   glibc %s, GLIBCXX_%s\n", p.Floors.Glibc, p.Floors.GLIBCXX)
	fmt.Fprintf(&b, "runtimes  %s\n", strings.Join(p.Runtimes, "\n          "))
	fmt.Fprintf(&b, "python    %s\n\n", strings.Join(p.Wheels, "\n          "))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SM\tBUNDLE\tARCHITECTURE\tTOOLKIT\tDEVICE CODE\tDRIVER\tPLATFORMS\tGPUS")
	for _, job := range p.Jobs {
		toolkit := p.Toolkits[slices.IndexFunc(p.Toolkits, func(k matrix.Toolkit) bool { return k.Name == job.Toolkit })]
		code, driver := "cubin", toolkit.DriverCubin
		if job.PTX {
			code, driver = "PTX", toolkit.DriverPTX
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", job.Row.Short(), job.Bundle, job.Architecture, job.Toolkit, code, driver,
			strings.Join(job.Platforms, ", "), strings.Join(job.GPUs, ", "))
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

func printJSON(term *terminal, value any, indent bool) error {
	encode := json.Marshal
	if indent {
		encode = func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }
	}
	text, err := encode(value)
	if err != nil {
		return err
	}
	term.Printf("%s", text)
	return nil
}
