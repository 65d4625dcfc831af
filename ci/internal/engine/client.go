package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"dagger.io/dagger/engineconn"
)

// clientCloseTimeout is what a Dagger client gets to end its session. Without
// its engine it never would, and the SDK's own connection waits five minutes.
const clientCloseTimeout = 10 * time.Second

// A clientProcess is a connection to an engine through a Dagger client that
// this process started, as the SDK's own is. It differs in that it ends: a
// connection that cannot be made is given up with the context, and a client
// whose engine was lost is killed.
type clientProcess struct {
	http  *http.Client
	stdin io.Closer
	ended chan struct{} // closed once the process was reaped
	cmd   *exec.Cmd
}

var _ engineconn.EngineConn = (*clientProcess)(nil)

// startClient runs the client program and waits until it is connected to the
// engine. What the client logs, and with it the output of every step, goes to
// log.
func startClient(ctx context.Context, program, host string, log io.Writer) (*clientProcess, error) {
	cmd := exec.Command(program, "session")
	cmd.Env = append(os.Environ(), "_EXPERIMENTAL_DAGGER_RUNNER_HOST="+host, "DO_NOT_TRACK=1", "NO_COLOR=1")
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe() // its EOF tells the client that this process ended
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the Dagger client: %w", err)
	}
	c := &clientProcess{stdin: stdin, ended: make(chan struct{}), cmd: cmd}
	// It tries for ten minutes to reach an engine that is not there.
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	var params engineconn.ConnectParams
	decodeErr := json.NewDecoder(bufio.NewReader(stdout)).Decode(&params)
	if !stop() {
		decodeErr = context.Cause(ctx)
	}
	go func() {
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		close(c.ended)
	}()
	if decodeErr != nil {
		cmd.Process.Kill()
		<-c.ended
		return nil, fmt.Errorf("connecting to %s: %w", host, decodeErr)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(params.Port))
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}}
	c.http = &http.Client{Transport: engineconn.RoundTripperFunc(func(r *http.Request) (*http.Response, error) {
		r.SetBasicAuth(params.SessionToken, "")
		return transport.RoundTrip(r)
	})}
	return c, nil
}

func (c *clientProcess) Do(r *http.Request) (*http.Response, error) { return c.http.Do(r) }

func (c *clientProcess) Host() string { return "dagger" }

func (c *clientProcess) Close() error {
	c.stdin.Close()
	c.http.CloseIdleConnections()
	select {
	case <-c.ended:
		return nil
	case <-time.After(clientCloseTimeout):
	}
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ending the Dagger client: %w", err)
	}
	<-c.ended
	return nil
}
