// Package bump finds the release of llama.cpp that the pin should move to, and tells what upstream changed that touches the farm.
//
// The command `ci bump` calls it:
//
//	matrix.yaml, tags or npm ──Find──▶ Bump      the pin and the file as they would be, and both trees compared
//	Bump ──Text──▶ that of a pull request
//
// farm.NextPin chooses the release, farm.ResolveSource brings the trees, engine.ReadSurvey reads them, spec.SetPin edits the
// text. The package compares and words; it neither prints nor writes matrix.yaml.
package bump

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
)

// Options are Find's options.
type Options struct {
	farm.NextOptions
	Matrix    []byte // the text of matrix.yaml
	Patches   []patches.Patch
	Cache     string                  // folder of sources
	Gone      []string                // options of the recipe that the new tree may lack, though the pin's has them
	Buildable func(farm.Source) error // reports why the farm cannot build a source
	Progress  func(string)
}

// A Bump is one move of the pin.
type Bump struct {
	Before, After matrix.LlamaPin // equal where there is nothing newer
	Date          time.Time       // of the tag or package
	Notes         []string        // what was left aside, and why
	Changes       Changes
	Upstream      []string // patches that the new tree has already
	// Problems are why the new tree does not build. The pin must not move before they are mended.
	Problems []error
	// Matrix is the text of matrix.yaml with the new pin.
	Matrix []byte
}

// Changed reports whether there is anything to move to.
func (b Bump) Changed() bool { return b.Before != b.After }

// Find looks for the release that the pin should move to, and compares its tree with the pin's.
func Find(ctx context.Context, o Options) (Bump, error) {
	m, err := spec.Load(bytes.NewReader(o.Matrix))
	if err != nil {
		return Bump{}, fmt.Errorf("reading matrix.yaml: %w", err)
	}
	b := Bump{Before: m.LlamaCPP, After: m.LlamaCPP}
	next, err := farm.NextPin(ctx, m.LlamaCPP, o.NextOptions, o.Cache, o.Progress)
	if err != nil {
		return b, err
	}
	b.After, b.Date, b.Notes = next.Pin, next.Date, next.Notes
	if !b.Changed() {
		return b, nil
	}
	if b.Matrix, err = spec.SetPin(o.Matrix, b.After); err != nil {
		return b, fmt.Errorf("writing matrix.yaml: %w", err)
	}
	return b, b.compare(ctx, o)
}

// compare fills in what differs between the trees, and what keeps the new one from being built.
func (b *Bump) compare(ctx context.Context, o Options) error {
	resolve := func(pin matrix.LlamaPin, set []patches.Patch) (farm.Source, error) {
		if o.Repository != "" {
			pin.Repository = o.Repository
		}
		return farm.ResolveSource(ctx, "", pin, set, o.Cache, o.Progress)
	}
	var surveys [2]engine.Survey
	var tree farm.Source
	for i, pin := range []matrix.LlamaPin{b.Before, b.After} {
		var err error
		if tree, err = resolve(pin, nil); err != nil {
			return err
		}
		if surveys[i], err = engine.ReadSurvey(tree); err != nil {
			return err
		}
	}
	b.Changes = Compare(surveys[0], surveys[1])
	if err := o.Buildable(tree); err != nil {
		b.Problems = append(b.Problems, err)
	}
	if err := b.gone(o.Gone); err != nil {
		b.Problems = append(b.Problems, err)
	}
	patched, err := resolve(b.After, o.Patches)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		b.Problems = append(b.Problems, err)
		return nil
	}
	for _, p := range o.Patches {
		name, _, _ := strings.Cut(p.Name, ".")
		applied := false
		for _, done := range patched.Patches { // in any of its forms
			applied = applied || strings.HasPrefix(done.Name, name+".")
		}
		if !applied {
			b.Upstream = append(b.Upstream, p.Name)
		}
	}
	return nil
}

// gone returns an error if options of the recipe that the pin's tree has are none of the new one. The farm would leave them
// out, as it does for old trees, which lack what these options switch off; a newer tree may have it by another name.
func (b *Bump) gone(accepted []string) error {
	if matrix.CompareVersions(b.After.Version, b.Before.Version) < 0 {
		return nil
	}
	lost := slices.DeleteFunc(slices.Clone(b.Changes.Unset.New), func(name string) bool { return slices.Contains(accepted, name) })
	if len(lost) == 0 {
		return nil
	}
	return &farm.SourceError{
		Given: b.After.Ref, Problem: "its CMake files no longer have the option " + strings.Join(lost, ", ") + ", which the farm sets: what it switches off may be on",
		Hint: "set what takes its place in ci/internal/engine/recipe.go, or if nothing does, repeat the command with --gone " + strings.Join(lost, ","),
	}
}

// A Delta is what one list of names has that the other has not.
type Delta struct{ New, Gone []string }

// Changes are the differences between two trees, as far as the farm depends on what differs.
type Changes struct {
	Options  Delta
	Unset    Delta                // New is no option any more and is left out; Gone is set again
	Defaults map[string][2]string // of options that both trees have, where they differ; empty where there is none
	// Renamed are options that only the second tree gives another name, by the old name.
	Renamed      map[string]string
	Programs     Delta
	Libraries    Delta
	CUDA         Delta
	Linked       Delta
	Licenses     Delta
	Reworded     []string // license texts and notices that both trees have, with other words
	PageLicenses Delta
}

// Compare tells what a tree has that the one before had not, and the reverse.
func Compare(before, after engine.Survey) Changes {
	c := Changes{
		Options:      delta(before.Options, after.Options),
		Unset:        delta(before.Unset, after.Unset),
		Defaults:     map[string][2]string{},
		Renamed:      map[string]string{},
		Programs:     delta(before.Programs, after.Programs),
		Libraries:    delta(before.Libraries, after.Libraries),
		CUDA:         delta(before.CUDA, after.CUDA),
		Linked:       delta(before.Linked, after.Linked),
		Licenses:     delta(slices.Sorted(maps.Keys(before.Licenses)), slices.Sorted(maps.Keys(after.Licenses))),
		PageLicenses: delta(before.PageLicenses, after.PageLicenses),
	}
	for _, name := range after.Options {
		if _, both := slices.BinarySearch(before.Options, name); both && before.Defaults[name] != after.Defaults[name] {
			c.Defaults[name] = [2]string{before.Defaults[name], after.Defaults[name]}
		}
	}
	for i, name := range c.Options.New {
		if value := after.Defaults[name]; value != "" {
			c.Options.New[i] += "=" + value
		}
	}
	for from, to := range after.Renamed {
		if old, ok := before.Renamed[from]; !ok || old != to {
			c.Renamed[from] = to
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before.Licenses)) {
		if now, ok := after.Licenses[path]; ok && now != before.Licenses[path] {
			c.Reworded = append(c.Reworded, path)
		}
	}
	return c
}

// delta compares two sorted lists.
func delta(before, after []string) (d Delta) {
	for _, name := range after {
		if _, found := slices.BinarySearch(before, name); !found {
			d.New = append(d.New, name)
		}
	}
	for _, name := range before {
		if _, found := slices.BinarySearch(after, name); !found {
			d.Gone = append(d.Gone, name)
		}
	}
	return d
}
