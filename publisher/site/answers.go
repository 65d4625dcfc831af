package site

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// An answer is what Pick says to one kind of machine, or to several: what it downloads.
type answer struct {
	ID      int
	Bundle  manifests.Artifact
	Runtime manifests.Artifact
	// Through is manifests.ThroughCubin or ThroughPTX.
	Through string
}

// Bytes is what a machine downloads that has CUDA's libraries, and All what one does that has not.
func (a answer) Bytes() int64 { return a.Bundle.Size }
func (a answer) All() int64   { return a.Bundle.Size + a.Runtime.Size }

// A kind is a set of compute capabilities to which Pick says the same, whatever the driver is.
type kind struct {
	ID int
	// SMs are the first of each run of capabilities, with the one behind its last. Open reports whether
	// the last run has no end.
	SMs  [][2]matrix.SM
	Open bool
	// Answers are those for each class of drivers, or none.
	Answers []int
}

func (k kind) has(sm matrix.SM) bool {
	return slices.ContainsFunc(k.SMs, func(run [2]matrix.SM) bool { return run[0] <= sm && sm < run[1] })
}

// none stands for machines that Pick has no bundle for.
const none = -1

// A share is what one kind has of a machine with two.
type share struct{ gpus, memory int }

// balances are the cases of two kinds of GPU in one machine: which bundle wins depends on which kind has
// more memory, and where both have the same, on which has more GPUs. The memory of all is 0 where programs
// get no more than a slice of each GPU. The page's script tells these cases apart, in this order.
var balances = [][2]share{
	{{1, 2}, {1, 1}}, {{1, 1}, {1, 2}},
	{{1, 2}, {2, 1}}, {{1, 1}, {1, 1}}, {{2, 1}, {1, 2}},
	{{1, 0}, {2, 0}}, {{1, 0}, {1, 0}}, {{2, 0}, {1, 0}},
}

// answers are what Pick says to every machine that runs the release's programs at all, by its GPUs and
// its driver.
type answers struct {
	// Floors are the drivers from which on Pick says something else, ascending. Class 0 is below the
	// first.
	Floors []string
	Kinds  []kind
	All    []answer
	// Pairs are for machines with GPUs of two kinds, the one of the lower ID first: for each class of
	// drivers the outcome in each of balances. An outcome is none, or four times the answer, and 1 if the
	// first kind is served, and 2 if the second is.
	Pairs map[string][][]int
}

// ask asks Pick for every compute capability, class of drivers, and pair of kinds.
func ask(r manifests.Release) (answers, error) {
	q := asking{release: r, seen: map[string]int{}, host: manifests.Host{OS: "linux", Arch: "amd64", DiskFree: -1}}
	q.host.Glibc, q.host.GLIBCXX = libraries(r)
	q.Pairs = map[string][][]int{}
	newest := matrix.SM(0)
	for _, bundle := range r.Bundles() {
		newest = max(newest, bundle.Row.SM)
		if floor := bundle.Requires.DriverMin.Any(); !slices.Contains(q.Floors, floor) {
			q.Floors = append(q.Floors, floor)
		}
	}
	slices.SortFunc(q.Floors, matrix.CompareVersions)
	for _, product := range allProducts() {
		newest = max(newest, product.SM)
	}
	// Beyond the newest major nothing but PTX runs, on all alike.
	const major = 10
	end := (newest/major + 2) * major
	byServing := map[string]int{}
	for sm := matrix.SM(major); sm < end; sm++ {
		serving, err := q.serving(sm)
		if err != nil {
			return answers{}, err
		}
		at, known := byServing[serving]
		if !known {
			at = len(q.Kinds)
			byServing[serving] = at
			k, err := q.kind(at, sm)
			if err != nil {
				return answers{}, err
			}
			q.Kinds = append(q.Kinds, k)
		}
		k := &q.Kinds[at]
		k.Open = sm == end-1
		if last := len(k.SMs) - 1; last >= 0 && k.SMs[last][1] == sm {
			k.SMs[last][1]++
		} else {
			k.SMs = append(k.SMs, [2]matrix.SM{sm, sm + 1})
		}
	}
	for i := range q.Kinds {
		for j := i + 1; j < len(q.Kinds); j++ {
			if err := q.pair(i, j); err != nil {
				return answers{}, err
			}
		}
	}
	return q.answers, nil
}

type asking struct {
	answers
	release manifests.Release
	host    manifests.Host // runs the release's programs at all
	seen    map[string]int // answers by what they download
}

// class is one driver of a class.
func (a answers) class(i int) string {
	if i == 0 {
		return "1.0"
	}
	return a.Floors[i-1]
}

// pick asks Pick for a machine with these GPUs.
func (q *asking) pick(class int, opts manifests.PickOptions, gpus ...manifests.GPU) (manifests.Decision, bool, error) {
	host := q.host
	host.Driver.Version, host.GPUs = q.class(class), gpus
	d, err := manifests.Pick(q.release, host, opts)
	lack, isLack := errors.AsType[*manifests.NoBundleError](err)
	if isLack && lack.Lack == manifests.LackBundle {
		return d, false, nil
	}
	return d, err == nil, err
}

// libraries are the versions of the C and the C++ library that all bundles run with.
func libraries(r manifests.Release) (glibc, glibcxx string) {
	for _, bundle := range r.Bundles() {
		if matrix.CompareVersions(bundle.Requires.Glibc, glibc) > 0 {
			glibc = bundle.Requires.Glibc
		}
		if matrix.CompareVersions(bundle.Requires.GLIBCXX, glibcxx) > 0 {
			glibcxx = bundle.Requires.GLIBCXX
		}
	}
	return glibc, glibcxx
}

// serving is how each bundle by itself serves a compute capability. Two with the same are of one kind:
// Pick looks at nothing else of them.
func (q *asking) serving(sm matrix.SM) (string, error) {
	var b strings.Builder
	for class := range len(q.Floors) + 1 {
		for _, bundle := range q.release.Bundles() {
			d, ok, err := q.pick(class, manifests.PickOptions{Row: bundle.Row}, manifests.GPU{SM: sm})
			if err != nil {
				return "", err
			}
			if ok {
				b.WriteString(d.Through)
			}
			b.WriteByte(',')
		}
	}
	return b.String(), nil
}

func (q *asking) kind(id int, sm matrix.SM) (kind, error) {
	k := kind{ID: id}
	for class := range len(q.Floors) + 1 {
		d, ok, err := q.pick(class, manifests.PickOptions{}, manifests.GPU{SM: sm})
		if err != nil {
			return kind{}, err
		}
		at := none
		if ok {
			at = q.intern(d)
		}
		k.Answers = append(k.Answers, at)
	}
	return k, nil
}

func (q *asking) pair(i, j int) error {
	first, second := q.Kinds[i].SMs[0][0], q.Kinds[j].SMs[0][0]
	outcomes := make([][]int, len(q.Floors)+1)
	for class := range outcomes {
		for _, balance := range balances {
			gpus := slices.Repeat([]manifests.GPU{{SM: first, MemoryMiB: balance[0].memory}}, balance[0].gpus)
			gpus = append(gpus, slices.Repeat([]manifests.GPU{{SM: second, MemoryMiB: balance[1].memory}}, balance[1].gpus)...)
			d, ok, err := q.pick(class, manifests.PickOptions{}, gpus...)
			if err != nil {
				return err
			}
			outcome := none
			if ok {
				outcome = 4 * q.intern(d)
				if d.GPUs[0].Served {
					outcome |= 1
				}
				if d.GPUs[len(gpus)-1].Served {
					outcome |= 2
				}
			}
			outcomes[class] = append(outcomes[class], outcome)
		}
	}
	q.Pairs[fmt.Sprintf("%d,%d", i, j)] = outcomes
	return nil
}

// intern is the number of a decision among All.
func (q *asking) intern(d manifests.Decision) int {
	key := d.Asset + " " + d.Runtime + " " + d.Through
	at, known := q.seen[key]
	if !known {
		at = len(q.All)
		q.seen[key] = at
		bundle, _ := q.release.Asset(d.Asset)
		runtime, _ := q.release.Asset(d.Runtime)
		q.All = append(q.All, answer{ID: at, Bundle: bundle, Runtime: runtime, Through: d.Through})
	}
	return at
}
