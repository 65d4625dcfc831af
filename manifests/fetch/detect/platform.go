package detect

import (
	"os"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/home"
)

// Platform asks where the machine runs. The notebooks come first: they are containers too.
func (d Detector) Platform() string {
	d = d.withDefaults()
	if notebook := home.Notebook(d.getenv, d.exists); notebook != "" {
		return notebook
	}
	switch {
	case strings.Contains(strings.ToLower(d.readText("proc/version")), "microsoft"):
		return "wsl"
	case d.exists(".dockerenv"), d.exists("run/.containerenv"), d.getenv("KUBERNETES_SERVICE_HOST") != "", d.exists("run/systemd/container"):
		return "container"
	}
	return "local"
}

// distribution is ID and VERSION_ID of os-release(5).
func (d Detector) distribution() string {
	text := d.readText("etc/os-release")
	if text == "" {
		text = d.readText("usr/lib/os-release")
	}
	values := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = strings.Trim(value, `"'`)
	}
	return strings.TrimSpace(values["ID"] + " " + values["VERSION_ID"])
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
