package consoletest

import (
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

// Download reports a download of 100 MB at 4 MB/s, ten times a second. An earlier run had
// downloaded 20 MB of it. The end is reported twice.
func Download(report func(measure.Progress)) {
	const mb = 1_000_000
	p := measure.Progress{Name: "llcuda-bins-sm75.tar.zst", Total: 100 * mb, From: 20 * mb}
	for p.Done = 5 * mb; p.Done <= 20*mb; p.Done += 5 * mb {
		report(p)
	}
	p.Source = "https://mirror"
	for p.Done = 20 * mb; p.Done < p.Total; p.Done += 400_000 {
		report(p)
		time.Sleep(100 * time.Millisecond)
	}
	p.Done = p.Total
	report(p)
	report(p)
}
