package site

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// A plot is one row of bars: a figure of one thing over the releases.
type plot struct {
	Title, Sub string
	// Latest is the newest figure, and Change how far it is from the one before.
	Latest, Change string
	Bars           []bar
}

// A bar is the figure of one release, in the plot's own units. Low and High are where the line of the
// least and the greatest ends, if HasSpread.
type bar struct {
	Release, Text       string
	X, Y, Width, Height float64
	Middle, Low, High   float64
	HasSpread, Newest   bool
}

// The measures of a plot.
const (
	PlotWidth, PlotHeight = 160, 56
	barGap                = 4
	widestBar             = 24
)

// A figure is a number of one release, with its spread if it has one.
type figure struct {
	release        string
	value          float64
	least, highest float64
	text           string
}

// newPlot draws figures, the latest last, so that most is the height of a plot.
func newPlot(title, sub string, figures []figure, most float64) plot {
	p := plot{Title: title, Sub: sub}
	width := min(widestBar, (PlotWidth+barGap)/float64(max(1, len(figures)))-barGap)
	y := func(value float64) float64 { return PlotHeight * (1 - value/most) }
	for i, f := range figures {
		b := bar{Release: f.release, Text: f.text, X: float64(i) * (width + barGap), Width: width, Y: y(f.value), Newest: i == len(figures)-1}
		b.Height, b.Middle = PlotHeight-b.Y, b.X+width/2
		if f.highest > 0 {
			b.HasSpread, b.Low, b.High = true, y(f.least), y(f.highest)
		}
		p.Bars = append(p.Bars, b)
	}
	last := figures[len(figures)-1]
	p.Latest = last.text
	if len(figures) > 1 {
		p.Change = fmt.Sprintf("%+.1f\u202f%%", 100*(last.value/figures[len(figures)-2].value-1))
	}
	return p
}

// A series is the figures of one thing. Those of one order come by their titles.
type series struct {
	title, sub string
	order      int
	figures    []figure
}

// collect adds a figure to the series of a title.
func collect(all []series, title, sub string, order int, f figure) []series {
	i := slices.IndexFunc(all, func(s series) bool { return s.title == title && s.sub == sub })
	if i < 0 {
		all = append(all, series{title: title, sub: sub, order: order})
		i = len(all) - 1
	}
	all[i].figures = append(all[i].figures, f)
	return all
}

// plots draws those that the latest release has, by one scale.
func plots(all []series, history []Release) (list []plot) {
	latest := history[len(history)-1].Release.Release
	all = slices.DeleteFunc(all, func(s series) bool { return s.figures[len(s.figures)-1].release != latest })
	slices.SortStableFunc(all, func(a, b series) int { return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.title, b.title)) })
	most := 0.0
	for _, s := range all {
		for _, f := range s.figures {
			most = max(most, f.value, f.highest)
		}
	}
	for _, s := range all {
		list = append(list, newPlot(s.title, s.sub, s.figures, most))
	}
	return list
}

// bundlePlots are the sizes of the bundles in releases whose latest is last.
func bundlePlots(history []Release) []plot {
	var all []series
	for _, r := range history {
		for _, a := range r.Bundles() {
			all = collect(all, a.Row.Capability(), "", orderOf(a.Row), sizeOf(r, a))
		}
	}
	return plots(all, history)
}

// runtimePlots are those of the CUDA runtimes.
func runtimePlots(history []Release) []plot {
	var all []series
	for _, r := range history {
		for _, a := range r.Runtimes() {
			all = collect(all, manifests.RuntimeOf(a.Toolkit.CUDA, *a.DeviceCode).String(), "", 0, sizeOf(r, a))
		}
	}
	return plots(all, history)
}

// orderOf is where a bundle comes among others, in whichever releases: by SM, PTX after machine code.
func orderOf(row matrix.Row) int {
	if row.PTX {
		return 2*int(row.SM) + 1
	}
	return 2 * int(row.SM)
}

func sizeOf(r Release, a manifests.Artifact) figure {
	return figure{release: r.Release.Release, value: float64(a.Size), text: measure.Bytes(a.Size)}
}

// speedPlots are what was measured on the GPU of the latest benchmark: each test by a scale of its own.
func speedPlots(history []Release) (list []plot) {
	latest := history[len(history)-1]
	if latest.Benchmark == nil {
		return nil
	}
	of := func(b *manifests.Benchmark) manifests.BenchmarkBundle { return b.Bundles[len(b.Bundles)-1] }
	for _, wanted := range latest.Benchmark.Tests {
		var all []series
		for _, r := range history {
			b := r.Benchmark
			if b == nil || b.GPU != latest.Benchmark.GPU || of(b).Row != of(latest.Benchmark).Row {
				continue
			}
			for _, test := range b.Tests {
				if test.Model != wanted.Model || test.Test != wanted.Test {
					continue
				}
				s := test.Speeds[len(test.Speeds)-1].TokensPerSecond
				all = collect(all, test.Test, test.Model, 0, figure{r.Release.Release, s.Median, s.Min, s.Max, fmt.Sprintf("%.1f", s.Median)})
			}
		}
		list = append(list, plots(all, history)...)
	}
	return list
}
