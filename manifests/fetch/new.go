package fetch

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/detect"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// New gives a client for this machine, with the store in home, or, where that is empty, in the place that fits the
// platform. getenv is os.Getenv. What it needs besides is a Verifier.
func New(home string, getenv func(string) string) (*Client, error) {
	home, err := Home(home, getenv)
	if err != nil {
		return nil, err
	}
	models, err := hub.FromEnvironment(getenv)
	if err != nil {
		return nil, err
	}
	s := &store.Store{Home: home}
	c := &Client{Store: s, Hub: models, Detector: detect.Detector{Getenv: getenv, Store: s.RuntimeFolders(), Disk: home}}
	c.Offline = isTrue(getenv("LLCUDA_OFFLINE"))
	return c, nil
}

// Home is the store's folder: the one given, else /content/.cache/llcuda on Colab and /kaggle/working/.cache/llcuda on
// Kaggle, where a notebook's files are kept, else llcuda in the user's cache folder.
func Home(given string, getenv func(string) string) (string, error) {
	const name = "llcuda"
	cache, user := getenv("XDG_CACHE_HOME"), getenv("HOME")
	switch {
	case given != "":
		return filepath.Abs(given)
	case detect.Detector{Getenv: getenv}.Platform() == "colab":
		return "/content/.cache/" + name, nil
	case detect.Detector{Getenv: getenv}.Platform() == "kaggle":
		return "/kaggle/working/.cache/" + name, nil
	case filepath.IsAbs(cache):
		return filepath.Join(cache, name), nil
	case filepath.IsAbs(user):
		return filepath.Join(user, ".cache", name), nil
	}
	return "", fmt.Errorf("finding a folder for the store: neither HOME nor XDG_CACHE_HOME is set: give one with --home or LLCUDA_HOME")
}

// isTrue reads a switch of the environment: 1, true, yes and on, in any case.
func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "yes", "on":
		return true
	}
	on, err := strconv.ParseBool(value)
	return err == nil && on
}
