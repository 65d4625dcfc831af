package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// defaultPartsDir is where the parts go without --out: not into the folder of a release, which holds nothing else.
const defaultPartsDir = "parts"

// plannedSteps are the steps of a build of the targets, without what only an engine knows of them.
func plannedSteps(m matrix.Matrix, targets []matrix.Target) ([]farm.Step, error) {
	var recipes []farm.Recipe
	for _, toolkit := range m.Toolkits {
		recipes = append(recipes, farm.Recipe{Toolkit: toolkit, Host: m.Toolkits[0]})
	}
	jobs, err := farm.Plan(targets, farm.Source{}, recipes)
	return farm.Steps(jobs), err
}

// chooseSteps checks --only and --parts, and leaves of the targets those that the steps to run belong to.
func (b *buildCommand) chooseSteps() error {
	if len(b.parts) > 0 {
		switch {
		case len(b.only) > 0:
			return console.Usage(errors.New("--only and --parts exclude each other"), "--only makes parts, --parts puts them together")
		case len(b.engines) > 0 || b.base != "" || b.jobs != 0:
			return console.Usage(errors.New("--engine, --base and --jobs have no effect with --parts, which compiles nothing"), "leave them out")
		}
		return nil
	}
	if len(b.only) == 0 {
		return nil
	}
	steps, err := plannedSteps(b.matrix, b.targets)
	if err != nil {
		return err
	}
	var all []string
	for _, step := range steps {
		all = append(all, step.Name())
	}
	for _, name := range b.only {
		if !slices.Contains(all, name) {
			return console.Usage(fmt.Errorf("--only: unknown step %q: with this --sm there are %s", name, strings.Join(all, ", ")), "give one of them, or several with commas")
		}
	}
	b.targets = slices.DeleteFunc(slices.Clone(b.targets), func(t matrix.Target) bool {
		toolkit, _ := b.matrix.ToolkitOf(t) // Check has seen to it
		runtime := farm.Step{Kind: farm.StepRuntime, Runtime: toolkit.Runtime(t.Row())}
		device := farm.Step{Kind: farm.StepDevice, Target: t}
		return !slices.Contains(b.only, device.Name()) && !slices.Contains(b.only, runtime.Name())
	})
	if len(b.targets) == 0 { // only the host step, which is the same for all
		b.targets = slices.DeleteFunc(slices.Clone(b.matrix.Targets), func(t matrix.Target) bool { return t.Toolkit != b.matrix.Toolkits[0].Name })[:1]
	}
	return nil
}

// open connects engines, or reads what steps left that ran elsewhere.
func (b *buildCommand) open(ctx context.Context, options engine.Options) (*engine.Session, error) {
	if len(b.parts) == 0 {
		return b.backend.Open(ctx, options)
	}
	parts, err := farm.ReadParts(b.parts)
	if err != nil {
		return nil, err
	}
	base, version := parts.Origin()
	recipes, err := b.backend.Recipes(b.source, b.toolkits(), base, version)
	if err != nil {
		return nil, err
	}
	plan, err := farm.Plan(b.targets, b.source, recipes)
	if err != nil {
		return nil, err
	}
	if err := parts.Check(ctx, b.release, farm.Steps(plan)); err != nil {
		return nil, err
	}
	return &engine.Session{Builders: []farm.Builder{parts}, Recipes: recipes}, nil
}

// collectPart writes what a step left as a part.
func (b *buildCommand) collectPart(ctx context.Context, step farm.Step, dir string, stats farm.StepStats) (artifacts []manifests.Artifact, err error) {
	err = b.stage(step.Name(), "pack", func(func(measure.Progress)) error {
		artifact, err := farm.WritePart(ctx, string(b.dir), b.release, step, dir, stats)
		artifacts = append(artifacts, artifact)
		return err
	})
	return artifacts, err
}
