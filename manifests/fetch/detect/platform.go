package detect

import (
	"os"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Platform asks where the machine runs. Kaggle's image is made from Colab's, and keeps its variables and folders, so
// Kaggle is asked first; and both are containers.
func (d Detector) Platform() string {
	d = d.withDefaults()
	set := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return d.Getenv(name) != "" })
	}
	switch {
	case set("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_URL_BASE") || d.exists("kaggle/working"):
		return "kaggle"
	case set("COLAB_RELEASE_TAG", "COLAB_GPU"):
		return "colab"
	case strings.Contains(strings.ToLower(d.text("proc/version")), "microsoft"):
		return "wsl"
	case d.exists(".dockerenv"), d.exists("run/.containerenv"), set("KUBERNETES_SERVICE_HOST"), d.exists("run/systemd/container"):
		return "container"
	}
	return "local"
}

// cpu reads the first processor of /proc/cpuinfo.
func (d Detector) cpu() manifests.CPU {
	cpu := manifests.CPU{Features: []string{}}
	data, err := os.ReadFile(d.path("proc/cpuinfo"))
	if err != nil {
		return cpu
	}
	for line := range strings.Lines(string(data)) {
		if strings.TrimSpace(line) == "" {
			break // the second processor begins
		}
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "model name":
			cpu.Model = value
		case "flags", "Features": // arm64 says Features
			cpu.Features = strings.Fields(value)
		}
	}
	slices.Sort(cpu.Features)
	cpu.Features = slices.Compact(cpu.Features)
	return cpu
}
