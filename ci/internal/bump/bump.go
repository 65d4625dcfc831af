// Package bump moves the pin of llama.cpp to a newer release, and tells what upstream changed that touches the farm.
//
// The command `ci bump` calls it:
//
//	matrix.yaml, tags or npm ──Find──▶ Bump      the pin as it would be, and both trees compared
//	Bump ──Markdown──▶ the text of a pull request
//	Bump ──Apply──▶ matrix.yaml, only the pin's values changed
//
// farm.NextPin chooses the release, farm.ResolveSource brings the trees, engine.ReadSurvey reads them, spec.SetPin edits
// the file. The package compares and words. It writes matrix.yaml once, by rename, when nothing is left that can fail.
package bump

import (
	"maps"
	"slices"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine"
)

// A Delta is what one list of names has that the other has not.
type Delta struct{ New, Gone []string }

// Changes are the differences between two trees, as far as the farm depends on what differs.
type Changes struct {
	Options Delta
	Unset   Delta // New is no option any more and is left out; Gone is set again
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
		Renamed:      map[string]string{},
		Programs:     delta(before.Programs, after.Programs),
		Libraries:    delta(before.Libraries, after.Libraries),
		CUDA:         delta(before.CUDA, after.CUDA),
		Linked:       delta(before.Linked, after.Linked),
		Licenses:     delta(slices.Sorted(maps.Keys(before.Licenses)), slices.Sorted(maps.Keys(after.Licenses))),
		PageLicenses: delta(before.PageLicenses, after.PageLicenses),
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
