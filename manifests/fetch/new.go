package fetch

import (
	"os"
	"path/filepath"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/detect"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/home"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// New gives a client for this machine, with the store in the folder given, or, where that is empty,
// in the place that fits the platform. getenv is os.Getenv. What it needs besides is a Verifier.
func New(given string, getenv func(string) string) (*Client, error) {
	folder, err := home.Store(given, getenv)
	if err != nil {
		return nil, err
	}
	models, err := hub.FromEnvironment(getenv)
	if err != nil {
		return nil, err
	}
	s := &store.Store{Home: folder}
	c := &Client{Store: s, Hub: models, Detector: detect.Detector{Probe: probe(), Disk: folder}}
	s.Machine, s.TrustAll = c.machine, IsTrue(getenv("LLCUDA_TRUST_HOME"))
	c.Offline = IsTrue(getenv("LLCUDA_OFFLINE"))
	return c, nil
}

// IsTrue reads a switch of the environment: 1, true, yes and on, in any case.
func IsTrue(value string) bool { return hub.IsTrue(value) }

// probe is where the program that asks CUDA lies: beside this one.
func probe() string {
	program, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real
	}
	return filepath.Join(filepath.Dir(program), detect.ProbeName)
}
