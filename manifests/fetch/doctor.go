package fetch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// A Check is one thing that the doctor looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Said   string `json:"said"`
	Hint   string `json:"hint,omitempty"`
}

// A Status is how a check ended.
type Status string

// The three ways.
const (
	StatusOK   Status = "ok"
	StatusWarn Status = "warn" // it works, or will, and could be better
	StatusFail Status = "fail"
)

// Doctor looks at all that an installation needs, from the GPU to the mirrors, and changes nothing.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	var checks []Check
	add := func(name string, status Status, hint, format string, args ...any) {
		checks = append(checks, Check{name, status, fmt.Sprintf(format, args...), hint})
	}
	host, sources, err := c.Detect(ctx)
	if err != nil {
		return nil, err
	}
	for _, gpu := range host.GPUs {
		capability := "unknown"
		if gpu.SM != 0 {
			capability = gpu.SM.Capability()
		}
		add("gpu", StatusOK, "", "%s, compute capability %s, %d MiB", gpu.Name, capability, gpu.MemoryMiB)
	}
	if len(host.GPUs) == 0 {
		add("gpu", StatusFail, "in a container, start it with --gpus all; on Colab and Kaggle, choose a GPU for the notebook; --allow-cpu does without", "no NVIDIA GPU was found")
	}
	if host.Driver.Version != "" {
		add("driver", StatusOK, "", "NVIDIA driver %s", host.Driver.Version)
	} else {
		said, status, hint := "no NVIDIA driver is loaded", StatusFail, "install NVIDIA's driver, 525.60.13 or later; nothing else of CUDA is needed"
		for _, s := range sources {
			if s.Problem != "" && strings.Contains(s.Name, "nvidia-smi") {
				said += ": " + s.Name + ": " + s.Problem
			}
		}
		if len(host.GPUs) == 0 { // for what is not there, no driver helps
			status, hint = StatusWarn, ""
		}
		add("driver", status, hint, "%s", said)
	}
	if host.Glibc != "" {
		add("system", StatusOK, "", "glibc %s, GLIBCXX %s, kernel %s, %s", host.Glibc, host.GLIBCXX, host.Kernel, host.Platform)
	} else {
		add("system", StatusFail, "musl systems such as Alpine need a container with glibc", "there is no GNU C library")
	}
	switch {
	case host.DiskFree < 0:
		add("disk", StatusWarn, "", "the free space of %s is not known", c.Store.Home)
	case host.DiskFree < 1<<30:
		add("disk", StatusWarn, "llcuda-fetch prune --yes removes what is not needed; --home chooses another folder", "%d MB are free in %s", host.DiskFree/1e6, c.Store.Home)
	default:
		add("disk", StatusOK, "", "%.1f GB are free in %s", float64(host.DiskFree)/1e9, c.Store.Home)
	}
	r := c.doctorRelease(ctx, host, add)
	c.doctorInstallation(ctx, r, add)
	return checks, ctx.Err()
}

// soon is when a release pointer should have been renewed: the farm does so every week.
const soon = 7 * 24 * time.Hour

type addCheck = func(name string, status Status, hint, format string, args ...any)

func hintOf(err error) string { return strings.Join(Hints(err), "; ") }

// doctorRelease asks the mirrors for a release, and whether it has a bundle for the machine. The release is nil where there is
// none.
func (c *Client) doctorRelease(ctx context.Context, host manifests.Host, add addCheck) *Release {
	r, err := c.Resolve(ctx, "")
	if Classify(err) == NotOffline {
		add("release", StatusWarn, hintOf(err), "%v", err)
		return nil
	}
	if err != nil {
		add("release", StatusFail, hintOf(err), "%v", err)
		return nil
	}
	by := "its signature was not looked at"
	if r.Signer.By != "" {
		by = "signed by " + r.Signer.By
	}
	add("release", StatusOK, "", "%s, %s", r.Release.Release, by)
	if p := r.Pointer; p != nil {
		status, hint := StatusOK, ""
		if time.Until(p.Expires) < soon {
			status, hint = StatusWarn, "the farm is late to renew it; from then on --release TAG is needed"
		}
		add("pointer", status, hint, "number %d of %s names it, until %s", p.Number, p.Issued.Format(time.DateOnly), p.Expires.Format(time.DateOnly))
		current, err := c.Store.Current()
		if err == nil && current.Release != r.Release.Release {
			add("newer", StatusWarn, "llcuda-fetch install --update", "%s is installed; the current release is %s", current.Release, r.Release.Release)
		}
	}
	if late := r.Expired; late != nil {
		add("pointer", StatusFail, late.Hint(), "%v", late)
	}
	plan, p, err := c.plan(r, host, Options{})
	if Classify(err) == NoGPU {
		return r // said above
	}
	if err != nil {
		add("bundle", StatusFail, hintOf(err), "%v", err)
		return r
	}
	add("bundle", StatusOK, "", "%s by %s", plan.Decision.Bundle, plan.Decision.Through)
	if !p.fetch {
		add("cuda", StatusOK, "", "%s, %s and %s from %s", plan.Libraries[0].Name, plan.Libraries[1].Name, plan.Libraries[2].Name, plan.Libraries[0].Source)
		return r
	}
	if _, there := c.Store.Folder(p.runtime); there {
		add("cuda", StatusOK, "", "the CUDA libraries are in the store")
		return r
	}
	add("cuda", StatusOK, "", "this machine has no CUDA 12 libraries; install fetches them (%d MB)", p.runtime.Size/1e6)
	return r
}

// doctorInstallation tries what is installed, beside the release that the mirrors offer, which may be nil.
func (c *Client) doctorInstallation(ctx context.Context, offered *Release, add addCheck) {
	if err := c.Store.Trusted(); err != nil {
		add("store", StatusFail, hintOf(err), "%v", err)
		return
	}
	current, err := c.Store.Current()
	if errors.Is(err, store.ErrNotInstalled) {
		add("installed", StatusWarn, "llcuda-fetch, without a command, installs", "nothing yet")
		return
	}
	if err == nil {
		err = c.Store.Sound(current)
	}
	if err != nil {
		add("installed", StatusFail, "llcuda-fetch install --force puts it right", "%v", err)
		return
	}
	withdrawn := c.Withdrawn(current.Release)
	if offered != nil && offered.Pointer != nil { // it is newer than any seen, which doctor leaves as they are
		withdrawn = offered.Pointer.CheckWithdrawn(current.Release)
	}
	if withdrawn != nil {
		add("withdrawn", StatusWarn, "llcuda-fetch install --update takes another one", "%v", withdrawn)
	}
	add("installed", StatusOK, "", "%s of release %s, in %s", current.Bundle, current.Release, c.Store.Dir(current))
	if !covers(current, c.Store.Here()) {
		add("machine", StatusWarn, "llcuda-fetch, without a command, looks at it anew, and so does the next run", "the GPUs, their driver, CUDA_VISIBLE_DEVICES or what LD_LIBRARY_PATH leads to changed since the installation")
	}
	probe, err := store.TryPrograms(ctx, c.Store.Programs(current), current.Through != manifests.ThroughCPU && c.Host == nil)
	if err != nil {
		add("programs", StatusFail, hintOf(err), "%v", err)
		return
	}
	said := "llama.cpp " + probe.Version
	if len(probe.Devices) > 0 {
		said += "; " + strings.Join(probe.Devices, "; ")
	}
	add("programs", StatusOK, "", "%s", said)
	for _, out := range c.Store.LeftOut(current) {
		add("cpu", StatusWarn, "a later release may mend it: llcuda-fetch install --update tries all of them anew", "%s", out)
	}
}
