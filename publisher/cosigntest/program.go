package cosigntest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/publisher/prepared"
)

// compile makes the stack's program of the module that lies beside this package's own sources.
func compile() (string, error) {
	const here = "github.com/waqasm86/llcuda-farm/publisher/cosigntest"
	output, err := exec.Command("go", "list", "-f", "{{.Dir}}", here).Output()
	if err != nil {
		return "", fmt.Errorf("go list %s: %w", here, err)
	}
	return prepared.Program("sigstore", filepath.Join(strings.TrimSpace(string(output)), "stack"))
}
