package detect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// errLate is a child that did not end in its time.
var errLate = errors.New("no answer")

// runChild runs a program in a process group of its own, so that whatever it started ends with it,
// and returns its standard output. It ends with the context, which has the limit given.
func runChild(ctx context.Context, limit time.Duration, environ []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a grandchild that left the group may hold the pipe
	cmd.Env = append(slices.Clone(environ), "LC_ALL=C")
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limitedBuffer{&out}, &limitedBuffer{&problem}
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return out.String(), fmt.Errorf("%w within %s", errLate, limit)
	case err == nil:
		return out.String(), nil
	}
	said := strings.TrimSpace(problem.String())
	if said, _, _ = strings.Cut(said, "\n"); said == "" {
		said, _, _ = strings.Cut(strings.TrimSpace(out.String()), "\n")
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && said != "" {
		return out.String(), fmt.Errorf("%s (%w)", said, err)
	}
	return out.String(), err
}

// maxOutput is far above the answer of any machine; a program that writes without end must not fill
// the memory.
const maxOutput = 1 << 20

type limitedBuffer struct{ *bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
