package detect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unicode"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// ProbeName is the probe's file, beside the client's.
const ProbeName = "llcuda-probe"

// probeLimits is how many limits the probe has: CUDA wakes one GPU after the other, and the largest
// machines have 16.
const probeLimits = 3

// An answer is what the probe printed; probe.c says what its fields are.
type answer struct {
	Library string `json:"library"`
	Version int    `json:"version"`
	Devices []struct {
		UUID   string `json:"uuid"`
		Name   string `json:"name"`
		SM     int    `json:"sm"`
		Memory int64  `json:"memory"`
		MIG    bool   `json:"mig"`
		PCI    string `json:"pci"`
	} `json:"devices"`
	Call   string `json:"call"`
	Error  int    `json:"error"`
	Name   string `json:"name"`
	Loader string `json:"loader"`
}

// A cudaAnswer is what CUDA said, or why it could not be asked.
type cudaAnswer struct {
	answer
	asked   bool
	late    bool
	crashed bool
	why     string
}

// showsGPU reports whether programs have a GPU.
func (a cudaAnswer) showsGPU() bool { return a.asked && a.Error == 0 && len(a.Devices) > 0 }

// version is CUDA's number as people write it: 12040 is 12.4.
func (a cudaAnswer) version() string {
	if a.Version <= 0 {
		return ""
	}
	return fmt.Sprintf("%d.%d", a.Version/1000, a.Version%1000/10)
}

// refusalText is CUDA's refusal in its own words.
func (a cudaAnswer) refusalText() string {
	switch {
	case a.Loader != "":
		return a.Loader
	case a.Error != 0:
		return fmt.Sprintf("%s gives %s (%d)", a.Call, cmp.Or(a.Name, "an error without a name"), a.Error)
	}
	return "cuDeviceGetCount gives 0"
}

// gpus are the devices as the host has them.
func (a cudaAnswer) gpus() []manifests.GPU {
	var gpus []manifests.GPU
	for i, device := range a.Devices {
		gpu := manifests.GPU{Index: i, UUID: shortenLine(device.UUID), Name: shortenLine(device.Name), MemoryMiB: int(device.Memory >> 20), MIG: device.MIG}
		if sm := matrix.SM(device.SM); sm.Valid() {
			gpu.SM = sm
		}
		gpus = append(gpus, gpu)
	}
	return gpus
}

func (a cudaAnswer) source() Source {
	s := Source{Name: ProbeName}
	switch {
	case !a.asked:
		s.Problem = a.why
	case a.showsGPU():
		s.Gave = fmt.Sprintf("%d of CUDA %s, from %s", len(a.Devices), a.version(), a.Library)
	default:
		s.Problem = a.refusalText()
		if a.Library != "" {
			s.Gave = a.Library
		}
	}
	return s
}

// askCUDA runs the probe in an environment.
func (d Detector) askCUDA(ctx context.Context, environ []string) cudaAnswer {
	if d.Probe == "" {
		return cudaAnswer{why: "this llcuda-fetch has none"}
	}
	if _, err := os.Stat(d.Probe); errors.Is(err, fs.ErrNotExist) {
		return cudaAnswer{why: "it is not beside llcuda-fetch"}
	}
	limit := probeLimits * d.Limit
	got := <-background(ctx, limit, func(ctx context.Context) cudaAnswer {
		out, err := runChild(ctx, limit, environ, d.Probe)
		// The driver's library may print as well.
		if at := strings.LastIndex(out, `{"library":`); at >= 0 {
			var a answer
			if json.Unmarshal([]byte(strings.ToValidUTF8(out[at:], "?")), &a) == nil {
				return cudaAnswer{answer: a, asked: true}
			}
		}
		if err == nil {
			err = errors.New("what it printed is not an answer")
		}
		var exit *exec.ExitError
		crashed := errors.As(err, &exit) && exit.ExitCode() < 0
		return cudaAnswer{late: errors.Is(err, errLate), crashed: crashed, why: err.Error()}
	})
	if got.late {
		return cudaAnswer{late: true, why: fmt.Sprintf("no answer within %s", limit)}
	}
	return got.value
}

// shortenLine is what others said, in one line and short enough for a host's fields.
func shortenLine(text string) string {
	const most = 2000
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// withoutVariable is an environment with a variable less.
func withoutVariable(environ []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
}

// gpus finds out which GPUs programs have, and where they have none, why.
func (d Detector) gpus(ctx context.Context, r *Report) {
	h := &r.Host
	defer func() { h.CUDA.Problem, h.CUDA.Way = shortenLine(h.CUDA.Problem), shortenLine(h.CUDA.Way) }()
	h.CUDA.Environment = []string{}
	for _, name := range []string{orderVariable, visibleVariable} {
		if value, ok := d.lookup(name); ok {
			h.CUDA.Environment = append(h.CUDA.Environment, name+"="+shortenLine(value))
		}
	}
	environ := launch.Installation{}.Environ(d.Environ)
	said := d.askCUDA(ctx, environ)
	r.add(said.source())
	h.CUDA.Asked, h.CUDA.Library, h.CUDA.Error, h.CUDA.Name = said.asked, shortenLine(said.Library), max(said.Error, 0), shortenLine(said.Name)
	version, versionSource := d.driverVersion()

	if said.showsGPU() {
		h.GPUs, h.Driver = said.gpus(), manifests.HostDriver{Version: version, CUDA: said.version()}
		if version != "" {
			r.add(versionSource)
			return
		}
		// WSL has no kernel module that would tell, and sandboxes show none.
		if h.Driver.Version = d.askSMI(ctx, r).driver.Version; h.Driver.Version == "" {
			h.Driver.Version = driverOf(said.Library, said.version())
			r.add(Source{Name: said.Library, Gave: "driver " + h.Driver.Version + " or later"})
		}
		return
	}
	no := refusal{Detector: d, host: h, said: said, environ: environ, smi: d.askSMI(ctx, r)}
	if ctx.Err() != nil {
		return
	}
	h.Driver = no.smi.driver
	if h.Driver.Version == "" && version != "" {
		h.Driver.Version = version
		r.add(versionSource)
	}
	if h.Driver.CUDA == "" {
		h.Driver.CUDA = said.version()
	}
	no.seen, no.where = no.smi.gpus, no.smi.source.Name
	if len(no.seen) == 0 {
		no.seen, no.where = d.driverGPUs(), gpusFolder
	}
	if len(no.seen) == 0 {
		no.seen, no.where = d.busGPUs(), pciFolder
	}
	if len(no.seen) > 0 && no.where != no.smi.source.Name {
		r.add(Source{Name: no.where, Gave: fmt.Sprintf("%d of NVIDIA's", len(no.seen))})
	}
	if !said.asked {
		if h.CUDA.Library = no.findDriverLibrary(); !said.late && no.hasGPUs() {
			h.GPUs = no.seen
			value, set := d.lookup(visibleVariable)
			if !set {
				return
			}
			left, ambiguous := visibleGPUs(no.seen, value, d.getenv(orderVariable))
			switch {
			case ambiguous:
				h.GPUs = nil
				h.CUDA.Problem, h.CUDA.Way = no.explainAmbiguous(value)
			case len(left) == 0:
				h.GPUs = nil
				h.CUDA.Problem, h.CUDA.Way = no.explainHidden(value, no.seen)
			default:
				h.GPUs = left
			}
			return
		}
	}
	h.CUDA.Problem, h.CUDA.Way = no.explain(ctx)
}

// askSMI runs nvidia-smi.
func (d Detector) askSMI(ctx context.Context, r *Report) smiAnswer {
	got := <-background(ctx, d.Limit, d.nvidiaSMI)
	if got.late {
		got.value = smiAnswer{there: true, source: Source{Name: smiName, Problem: fmt.Sprintf("%v within %s", errLate, d.Limit)}}
	}
	if ctx.Err() == nil {
		r.add(got.value.source)
	}
	return got.value
}
