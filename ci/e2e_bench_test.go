package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// The environment variables that make BenchmarkFarm measure something other than minillama
// for all SMs.
const (
	benchLlama = "LLCUDA_BENCH_LLAMA" // a folder with a llama.cpp tree, or what git can clone
	benchSM    = "LLCUDA_BENCH_SM"    // as --sm takes it
)

// BenchmarkFarm measures what a release of several SMs costs: as the farm builds it, the host
// half once and one device half an SM, and as one full build an SM that shares nothing.
//
// Every build gets a tree of its own in which each source file ends in a new comment: the
// engine's cache and the compiler cache have met none of them, so that everything is compiled.
// The builder image, which is made once for a toolkit and not for a build, is in place before the
// clock starts. The CUDA runtimes are left out on both sides.
func BenchmarkFarm(b *testing.B) {
	f := newFarm(b)
	llama, title := f.llama, "minillama"
	if given := os.Getenv(benchLlama); given != "" {
		llama, title = checkout(b, given), given
	}
	sms := f.planned(b)
	f.build(b, f.llama, sms[0], b.TempDir()).want(b, 0)

	for b.Loop() {
		measure := func(sm string) bill {
			tree, out := copyTree(b, llama), b.TempDir()
			spoil(b, tree)
			build := f.build(b, tree, sm, out)
			build.want(b, 0)
			return billOf(b, build, out)
		}
		farm := measure(strings.Join(sms, ","))
		var full []bill
		for _, sm := range sms {
			full = append(full, measure(sm))
		}
		fmt.Printf("\n%s\n", comparison(title, sms, farm, full)) // a benchmark's own log is cut to ten lines
		separate := sum(full)
		b.ReportMetric(separate.cpu/farm.total.cpu, "full-cpu/farm-cpu")
		b.ReportMetric(separate.wall.Seconds()/farm.total.wall.Seconds(), "full-wall/farm-wall")
		b.ReportMetric(farm.total.cpu, "farm-cpu-s")
	}
}

// checkout makes a copy of the tree to measure.
func checkout(b *testing.B, given string) string {
	b.Helper()
	if info, err := os.Stat(given); err == nil && info.IsDir() {
		return given
	}
	dir := filepath.Join(b.TempDir(), "llama.cpp")
	if out, err := exec.Command("git", "clone", "--quiet", "--depth", "1", given, dir).CombinedOutput(); err != nil {
		b.Fatalf("cloning $%s: %v\n%s", benchLlama, err, out)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".git")); err != nil {
		b.Fatal(err)
	}
	return dir
}

// planned lists the SMs to measure.
func (f *farm) planned(b *testing.B) []string {
	b.Helper()
	chosen := os.Getenv(benchSM)
	if chosen == "" {
		chosen = "all"
	}
	plan := f.run(b, "plan", "--sm", chosen, "--json")
	plan.want(b, 0)
	var planned struct{ Jobs []struct{ SM code } }
	if err := json.Unmarshal([]byte(plan.stdout), &planned); err != nil {
		b.Fatal(err)
	}
	var rows []string
	for _, job := range planned.Jobs {
		rows = append(rows, string(job.SM))
	}
	return rows
}

// compiled are the names of files that a compiler reads.
var compiled = regexp.MustCompile(`\.(c|cc|cpp|cu|cuh|h|hpp)$`)

// spoil changes everything by which a cache identifies a tree, but not what the tree compiles to.
func spoil(b *testing.B, tree string) {
	b.Helper()
	note := fmt.Sprintf("\n/* %d */\n", time.Now().UnixNano())
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		// The stylesheet stands for the web UI, which is built as a whole.
		name, err := filepath.Rel(tree, path)
		if err != nil || !compiled.MatchString(name) && filepath.ToSlash(name) != "tools/ui/src/app.css" {
			return err
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = file.WriteString(note)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// cost is what something took.
type cost struct {
	wall time.Duration
	cpu  float64 // seconds
}

func (c cost) add(more cost) cost { return cost{c.wall + more.wall, c.cpu + more.cpu} }

// bill is what the parts of one build took, without the CUDA runtime.
type bill struct {
	stages []stageCost
	steps  map[string]cost
	total  cost
}

type stageCost struct {
	step, stage string
	cost
}

var (
	// doneLine ends a stage in the plain progress of a build.
	doneLine = regexp.MustCompile(`^(host|sm\d+) +(\S+) +done in ([^ ,]+)`)
	// figuresLine ends a stage in the log of its step.
	figuresLine = regexp.MustCompile(`(?m)^(\S+) took ([0-9.]+) CPU seconds; `)
)

func billOf(b *testing.B, build result, out string) bill {
	b.Helper()
	paid := bill{steps: map[string]cost{}}
	for step, row := range build.table(b) {
		if strings.HasPrefix(step, "runtime-") {
			continue
		}
		if row.result != "built" || step == "host" && row.fromCache > 0 {
			b.Fatalf("%s was %s with %d of %d objects from a cache: not a cold build\n%s", step, row.result, row.fromCache, row.objects, build)
		}
		paid.steps[step] = cost{wall: row.wall}
	}
	cpu := map[string]float64{} // by step and stage
	for step, total := range paid.steps {
		log, err := os.ReadFile(filepath.Join(out, "logs", step+".log"))
		if err != nil {
			b.Fatal(err)
		}
		for _, match := range figuresLine.FindAllStringSubmatch(string(log), -1) {
			seconds, err := strconv.ParseFloat(match[2], 64)
			if err != nil {
				b.Fatal(err)
			}
			cpu[step+" "+match[1]] = seconds
			total.cpu += seconds
		}
		if total.cpu == 0 {
			b.Fatalf("the log of %s tells no CPU seconds:\n%s", step, log)
		}
		paid.steps[step] = total
		paid.total = paid.total.add(total)
	}
	for _, line := range strings.Split(build.stderr, "\n") {
		if match := doneLine.FindStringSubmatch(line); match != nil {
			paid.stages = append(paid.stages, stageCost{match[1], match[2], cost{durationOf(b, match[3]), cpu[match[1]+" "+match[2]]}})
		}
	}
	return paid
}

func sum(bills []bill) cost {
	var total cost
	for _, paid := range bills {
		total = total.add(paid.total)
	}
	return total
}

// comparison is the table that the benchmark prints.
func comparison(title string, sms []string, farm bill, full []bill) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(what, part string, c cost) {
		cpu := "-"
		if c.cpu > 0 {
			cpu = fmt.Sprintf("%.1f", c.cpu)
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\t\n", what, part, c.wall.Seconds(), cpu)
	}
	fmt.Fprintf(&text, "%s for sm %s\n", title, strings.Join(sms, " "))
	fmt.Fprintf(w, "STEP\tSTAGE\tWALL S\tCPU S\t\n")
	order := []string{"host"}
	for _, sm := range sms {
		order = append(order, "sm"+sm)
	}
	for _, step := range order {
		for _, stage := range farm.stages {
			if stage.step == step {
				line(step, stage.stage, stage.cost)
			}
		}
		line(step, "whole step", farm.steps[step])
	}
	separate := sum(full)
	line("farm", fmt.Sprintf("1 host half, %d SMs", len(sms)), farm.total)
	for i, paid := range full {
		line("full build", "sm"+sms[i], paid.total)
	}
	line("separately", fmt.Sprintf("%d full builds", len(full)), separate)
	fmt.Fprintf(w, "ratio\tseparately / farm\t%.2f\t%.2f\t\n", separate.wall.Seconds()/farm.total.wall.Seconds(), separate.cpu/farm.total.cpu)
	w.Flush()
	return text.String()
}

// BenchmarkNothingChanged measures a build that has nothing to do, and for comparison how long make
// takes to find that out: it checks the times of every file of the tree and of what was made from it.
func BenchmarkNothingChanged(b *testing.B) {
	f := newFarm(b)
	out := b.TempDir()
	for range 2 { // the second one notes what the first one made
		f.build(b, f.llama, "75", out).want(b, 0)
	}
	makefile := filepath.Join(b.TempDir(), "Makefile")
	var sources, made []string
	for dir, names := range map[string]*[]string{f.llama: &sources, out: &made} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				*names = append(*names, path)
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	rule := strings.Join(made, " ") + ": " + strings.Join(sources, " ") + "\n\tfalse\n"
	if err := os.WriteFile(makefile, []byte(rule), 0o644); err != nil {
		b.Fatal(err)
	}
	var ci, make time.Duration
	for b.Loop() {
		began := time.Now()
		build := f.build(b, f.llama, "75", out)
		ci += time.Since(began)
		build.want(b, 0, "nothing was compiled")
		began = time.Now()
		if text, err := exec.Command("make", "-q", "-f", makefile).CombinedOutput(); err != nil {
			b.Fatalf("make -q: %v\n%s", err, text)
		}
		make += time.Since(began)
	}
	b.ReportMetric(ci.Seconds()/float64(b.N), "build-s")
	b.ReportMetric(make.Seconds()/float64(b.N), "make-s")
}
