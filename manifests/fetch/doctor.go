package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/detect"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
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
	c.doctorGPU(host, sources, add)
	c.doctorSystem(host, add)
	c.doctorStore(host, add)
	c.doctorInstallation(ctx, c.doctorRelease(ctx, host, add), add)
	return checks, ctx.Err()
}

// doctorGPU says which GPUs programs have, which source says so, and what keeps programs from using
// them.
func (c *Client) doctorGPU(host manifests.Host, sources []Source, add addCheck) {
	for _, gpu := range host.GPUs {
		capability, memory := "unknown", "memory unknown"
		if gpu.SM != 0 {
			capability = gpu.SM.Capability()
		}
		if gpu.MemoryMiB > 0 {
			memory = fmt.Sprintf("%d MiB", gpu.MemoryMiB)
		}
		add("gpu", StatusOK, "", "%s, compute capability %s, %s", gpu.Name, capability, memory)
	}
	none := host.NoGPU()
	if none != nil && none.Lack == manifests.LackGPU {
		add("gpu", StatusFail, none.Way, "%s", none.Reason)
	}
	switch {
	case host.CUDA.Asked && host.CUDA.Error == 0 && len(host.GPUs) > 0:
		add("asked", StatusOK, "", "CUDA %s answers, from %s", host.Driver.CUDA, host.CUDA.Library)
	case host.CUDA.Asked:
		add("asked", StatusFail, "", "CUDA answers: %s (%d) %s", cmp.Or(host.CUDA.Name, "no device"), host.CUDA.Error, host.CUDA.Library)
	}
	for _, s := range sources {
		if s.Name == detect.ProbeName && !host.CUDA.Asked {
			add("asked", StatusWarn, "install.sh of the release brings "+detect.ProbeName+"; until then nvidia-smi answers", "CUDA itself was not asked: %s: %s", s.Name, s.Problem)
		}
	}
	for _, variable := range host.CUDA.Environment {
		add("variable", StatusOK, "", "%s is set: programs that are started without it may have other GPUs", variable)
	}
	switch {
	case host.Driver.Version != "":
		add("driver", StatusOK, "", "NVIDIA driver %s", host.Driver.Version)
	case none == nil || none.Lack == manifests.LackDriver || host.CUDA.Problem != "":
		said := "no NVIDIA driver is loaded"
		for _, s := range sources {
			if s.Problem != "" && strings.Contains(s.Name, "nvidia-smi") {
				said += ": " + s.Name + ": " + s.Problem
			}
		}
		add("driver", StatusFail, "install NVIDIA's driver, 525.60.13 or later; nothing else of CUDA is needed", "%s", said)
	default: // for a GPU that is not there, no driver helps
		add("driver", StatusWarn, "", "no NVIDIA driver is loaded")
	}
	if c.Host != nil {
		return // the rest is of this machine
	}
	if host.Driver.Version != "" && !(host.CUDA.Asked && none == nil) {
		if wrong := c.Detector.DeviceFiles(); wrong != "" {
			status := StatusFail
			if none == nil { // the first program that uses CUDA may make them
				status = StatusWarn
			}
			add("devices", status, "programs need to read and write them: in a container, --gpus all; elsewhere, sudo nvidia-modprobe -u -c 0 makes those that are missing", "%s", wrong)
		} else {
			add("devices", StatusOK, "", "the driver's files under /dev can be opened")
		}
	}
	for _, file := range c.Detector.Shadows() {
		add("path", StatusWarn, "take "+path.Dir(file)+" out of LD_LIBRARY_PATH: the driver's own libcuda.so.1 is enough", "LD_LIBRARY_PATH leads to %s in the place of the driver's own", file)
	}
}

// epoch is before every release of the farm: a clock that stands there is wrong.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const clockHint = "set the clock (timedatectl set-ntp true): certificates, signatures and release pointers go by it"

// doctorSystem is for what programs need of the system. Whether its C and C++ libraries are new
// enough, the bundle says.
func (c *Client) doctorSystem(host manifests.Host, add addCheck) {
	switch {
	case host.Glibc == "":
		add("system", StatusFail, "musl systems such as Alpine need a container with glibc, NixOS nix-ld or an FHS environment", "there is no GNU C library where the loader looks")
	case host.GLIBCXX == "":
		add("system", StatusFail, "install libstdc++6 (Debian, Ubuntu) or libstdc++ (Fedora, RHEL and their family)", "there is no libstdc++.so.6 where the loader looks")
	case host.LibStdCXX != "":
		add("system", StatusWarn, "programs get this one: unset LD_LIBRARY_PATH, or take "+path.Dir(host.LibStdCXX)+" out of it, if it is not meant for them",
			"glibc %s, GLIBCXX %s from %s, to which LD_LIBRARY_PATH leads", host.Glibc, host.GLIBCXX, host.LibStdCXX)
	default:
		add("system", StatusOK, "", "glibc %s, GLIBCXX %s, kernel %s, %s", host.Glibc, host.GLIBCXX, host.Kernel, host.Platform)
	}
	if now := time.Now(); now.Before(epoch) {
		add("clock", StatusFail, clockHint, "this machine's clock says %s", now.UTC().Format(time.RFC3339))
	}
}

// doctorStore is for the folder that everything is installed in.
func (c *Client) doctorStore(host manifests.Host, add addCheck) {
	home := c.Store.Home
	if err := checkWritable(home); err != nil {
		problem := &store.HomeError{Doing: "writing to the store", Home: home, Err: err}
		add("store", StatusFail, problem.Hint(), "%v", problem)
	} else if isNoexec(home) {
		add("store", StatusFail, "--home (LLCUDA_HOME) chooses another folder", "programs cannot be started from %s: its file system is mounted noexec", home)
	} else {
		add("store", StatusOK, "", "%s can be written to, and programs started from it", home)
	}
	switch {
	case host.DiskFree < 0:
		add("disk", StatusWarn, "", "the free space of %s is not known", home)
	case host.DiskFree < 1<<30:
		add("disk", StatusWarn, "llcuda-fetch prune --yes removes what is not needed; --home chooses another folder", "%s are free in %s", measure.Bytes(host.DiskFree), home)
	default:
		add("disk", StatusOK, "", "%s are free in %s", measure.Bytes(host.DiskFree), home)
	}
}

// checkWritable says why the store cannot be written to, or made, without writing to it.
func checkWritable(home string) error {
	folder := nearestExisting(home)
	if info, err := os.Stat(folder); err == nil && !info.IsDir() {
		return &fs.PathError{Op: "access", Path: folder, Err: unix.ENOTDIR}
	}
	if err := unix.Access(folder, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "access", Path: folder, Err: err}
	}
	if folder != home {
		return nil
	}
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, entry := range entries { // the store's own folders and lock, which another user may have made
		name := path.Join(home, entry.Name())
		if err := unix.Access(name, unix.W_OK); err != nil && entry.Type()&fs.ModeSymlink == 0 {
			return &fs.PathError{Op: "access", Path: name, Err: err}
		}
	}
	return nil
}

func isNoexec(home string) bool {
	var at unix.Statfs_t
	return unix.Statfs(nearestExisting(home), &at) == nil && at.Flags&unix.ST_NOEXEC != 0
}

// nearestExisting is a folder, or the nearest one above it that is there.
func nearestExisting(folder string) string {
	for {
		if _, err := os.Lstat(folder); err == nil || folder == path.Dir(folder) {
			return folder
		}
		folder = path.Dir(folder)
	}
}

// soon is when a release pointer should have been renewed: the farm does so every week.
const soon = 7 * 24 * time.Hour

type addCheck = func(name string, status Status, hint, format string, args ...any)

func hintOf(err error) string { return strings.Join(Hints(err), "; ") }

// doctorRelease asks the mirrors for a release, and whether it has a bundle for the machine. The
// release is nil where there is none.
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
	if made := time.Unix(r.Release.SourceDateEpoch, 0); time.Now().Before(made) {
		add("clock", StatusFail, clockHint,
			"this machine's clock says %s, which is before the release was made", time.Now().UTC().Format(time.RFC3339))
	}
	if p := r.Pointer; p != nil {
		status, hint := StatusOK, ""
		if time.Until(p.Expires) < soon {
			status, hint = StatusWarn, "the farm is late to renew it; after that date, --release TAG is needed"
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
	best, err := c.makeOffer(r, host, Options{})
	if Classify(err) == NoGPU {
		return r // said above
	}
	if err != nil {
		add("bundle", StatusFail, hintOf(err), "%v", err)
		return r
	}
	add("bundle", StatusOK, "", "%s by %s", best.Decision.Bundle, best.Decision.Through)
	if !best.needsRuntime() {
		add("cuda", StatusOK, "", "%s, %s and %s from %s", best.Libraries[0].Name, best.Libraries[1].Name, best.Libraries[2].Name, best.Libraries[0].Source)
		return r
	}
	if _, there := c.Store.Folder(best.runtime); there {
		add("cuda", StatusOK, "", "the CUDA libraries are in the store")
		return r
	}
	add("cuda", StatusOK, "", "this machine has no CUDA 12 libraries; install downloads them (%s)", measure.Bytes(best.runtime.Size))
	return r
}

// doctorInstallation tries what is installed, beside the release that the mirrors offer, which may
// be nil.
func (c *Client) doctorInstallation(ctx context.Context, offered *Release, add addCheck) {
	if err := c.Store.Trusted(); err != nil {
		add("store", StatusFail, hintOf(err), "%v", err)
		return
	}
	current, err := c.Store.Current()
	if errors.Is(err, store.ErrNotInstalled) {
		add("installed", StatusWarn, "run llcuda-fetch without a command to install it", "nothing yet")
		return
	}
	if err == nil {
		err = c.Store.Sound(current)
	}
	if err != nil {
		add("installed", StatusFail, "llcuda-fetch install --force repairs it", "%v", err)
		return
	}
	withdrawn := c.Withdrawn(current.Release)
	if offered != nil && offered.Pointer != nil { // it is newer than any seen, which doctor leaves as they are
		withdrawn = offered.Pointer.CheckWithdrawn(current.Release)
	}
	if withdrawn != nil {
		add("withdrawn", StatusWarn, "llcuda-fetch install --update installs another one", "%v", withdrawn)
	}
	add("installed", StatusOK, "", "%s of release %s, in %s", current.Bundle, current.Release, c.Store.Dir(current))
	if !covers(current, c.Store.ThisMachine()) {
		add("machine", StatusWarn, "run llcuda-fetch without a command to check it again; the next run does so, too", "the GPUs, their driver, CUDA_VISIBLE_DEVICES or what LD_LIBRARY_PATH leads to changed since the installation")
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
		add("cpu", StatusWarn, "a later release may fix it: llcuda-fetch install --update tries all of them again", "%s", out)
	}
}
