package builtin

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// The parts of the engine's own configuration that the farm sets. See
// engine/config in Dagger's repository.
type engineConfig struct {
	LogLevel string         `json:"logLevel"`
	GC       gcConfig       `json:"gc"`
	Security securityConfig `json:"security"`
}

type gcConfig struct {
	Policies []gcPolicy `json:"policies"`
}

type gcPolicy struct {
	All           bool     `json:"all,omitempty"`
	Filters       []string `json:"filters,omitempty"`
	KeepDuration  string   `json:"keepDuration,omitempty"`
	ReservedSpace int64    `json:"reservedSpace,omitempty"`
	MaxUsedSpace  int64    `json:"maxUsedSpace"`
	MinFreeSpace  int64    `json:"minFreeSpace,omitempty"`
}

type securityConfig struct {
	InsecureRootCapabilities bool `json:"insecureRootCapabilities"`
}

// uploadsKept bounds what is kept of folders sent by clients.
const uploadsKept = 5e9

// newEngineConfig bounds the cache. The engine's default policy would empty
// cache volumes after two days, and with them the compiler cache.
func newEngineConfig(diskLimit int64) ([]byte, error) {
	data, err := json.MarshalIndent(engineConfig{
		LogLevel: "info",
		GC: gcConfig{Policies: []gcPolicy{
			{Filters: []string{"type==source.local"}, KeepDuration: "48h", MaxUsedSpace: min(uploadsKept, diskLimit)},
			{All: true, ReservedSpace: min(reservedSpace, diskLimit), MaxUsedSpace: diskLimit, MinFreeSpace: minFreeSpace},
		}},
		// Compile steps give up their network with it, and then all privileges.
		Security: securityConfig{InsecureRootCapabilities: true},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("configuring the engine: %w", err)
	}
	return append(data, '\n'), nil
}

// writeConfig writes what the engine reads from its own folder, and returns
// the path of its configuration file and of the folder to put first in PATH.
func writeConfig(stateDir, name string) (file, binDir string, err error) {
	dir := filepath.Join(stateDir, "config")
	binDir = filepath.Join(dir, "bin")
	if err := os.MkdirAll(binDir, 0o755); err != nil {
		return "", "", fmt.Errorf("configuring the engine: %w", err)
	}
	file = filepath.Join(dir, "buildkitd.toml")
	toml := fmt.Sprintf("[worker.oci]\n  defaultCgroupParent = %q\n", cgroupParent(name))
	if err := writeFile(file, []byte(toml), 0o644); err != nil {
		return "", "", fmt.Errorf("configuring the engine: %w", err)
	}
	dnsmasq, err := lookTool("dnsmasq")
	if err != nil {
		return "", "", err
	}
	const nothing = "#!/bin/sh\n"
	for name, script := range map[string]string{
		// The engine starts dnsmasq from PATH and lets it listen on port 53 of
		// all addresses, which fails beside any other name server, such as that
		// of a second engine. Bound to the bridge alone, all fit.
		"dnsmasq": fmt.Sprintf("#!/bin/sh\nexec %s --bind-dynamic \"$@\"\n", dnsmasq),
		// The engine reinstalls the host's own certificates at every start. Its
		// image needs that; here they are installed already, and it takes seconds.
		"update-ca-certificates": nothing,
		"c_rehash":               nothing,
	} {
		if err := writeFile(filepath.Join(binDir, name), []byte(script), 0o755); err != nil {
			return "", "", fmt.Errorf("configuring the engine: %w", err)
		}
	}
	return file, binDir, nil
}
