package fetch

import (
	"os"
	"path"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// Environment are the variables that other programs find an installation by. LLAMA_SERVER_PATH and
// LLAMA_CPP_DIR are those of the Python package llcuda.
func (c *Client) Environment(i Install) [][2]string {
	dir, programs := c.Store.Dir(i), c.Programs(i)
	list := [][2]string{
		{"LLAMA_CPP_DIR", dir},
		{"LLAMA_SERVER_PATH", path.Join(programs, "llama-server")},
		{"LLCUDA_BIN_DIR", programs},
		{"LLCUDA_LIB_DIR", path.Join(dir, launch.LibrariesDir)},
		{"LLCUDA_INSTALLED_RELEASE", i.Release}, // LLCUDA_RELEASE and LLCUDA_SM ask for one
		{"LLCUDA_INSTALLED_SM", i.Row.Short()},
	}
	if len(i.VisibleDevices) > 0 {
		list = append(list, [2]string{"CUDA_VISIBLE_DEVICES", strings.Join(i.VisibleDevices, ",")})
	}
	return list
}

// Programs is the folder of an installation's programs.
func (c *Client) Programs(i Install) string { return launch.ProgramsDir(c.Store.Dir(i)) }

// Program is the path of one of an installation's programs.
func (c *Client) Program(i Install, name string) (string, error) {
	programs := c.Store.Programs(i)
	if program, ok := programs.Program(name); ok {
		return program, nil
	}
	entries, err := os.ReadDir(c.Programs(i))
	if err != nil {
		return "", err
	}
	var known []string
	for _, entry := range entries {
		if _, ok := programs.Program(entry.Name()); ok {
			known = append(known, entry.Name())
		}
	}
	return "", &NameError{Kind: "program", Name: name, Known: known}
}
