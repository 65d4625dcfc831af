// Package serve supervises one llama-server: it starts it, says when it answers, keeps what it prints, and ends it.
//
// fetchcli calls it for `llcuda-fetch serve`. The input is a Server (a program with its arguments, where it is to
// listen, where its log goes); the output is Events, by a callback, and an *ExitError that says why a server ended that
// was not asked to:
//
//	a free port ──▶ Starting ──▶ Loading, each second ──▶ Ready, once GET /health is 200 ──▶ Exit
//
// No server outlives its supervisor. The context ends it in order. Where the supervisor is killed itself, the kernel kills
// the process that it started (PR_SET_PDEATHSIG), which is the server, or a script that made itself the server by exec; and
// where not even that held, a later supervisor finds the server by the record that was kept of it. The package never prints,
// and reads no environment.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// UsualPort is the one that is taken if it is free.
const UsualPort = 8090

const (
	// grace is how long a server may take to end in order before it is killed.
	grace = 5 * time.Second
	// graceUnattended is the same where no user is waiting: what counts then is that GPU memory is freed.
	graceUnattended = time.Second
	// pollEvery is how often a server is asked whether it is ready: well below what a person notices.
	pollEvery = 50 * time.Millisecond
	// answerLimit bounds one answer. A server that computes on all cores is slow to answer, not dead.
	answerLimit = 5 * time.Second
	// maxTries bounds how often another port is tried after another process took the port first.
	maxTries = 5
)

// ErrUnattended is the cause of a context that ends because the program that asked for the server has let go of it.
var ErrUnattended = errors.New("the program that asked for the server has let go of it")

// A Model is what a server serves, for events and messages.
type Model struct {
	Name string `json:"name"`
	Path string `json:"path"`
	Size int64  `json:"size"` // that of all parts; 0 if unknown
}

// A Server is what is to be started.
type Server struct {
	Program string
	// Arguments are all but --host and --port, and Environ is the whole environment.
	Arguments, Environ []string
	Model              Model
	Devices            []string
	// Host is where it listens, 127.0.0.1 if empty. Port 0 is UsualPort, or a free one.
	Host string
	Port int
	// Prefix stands before the paths of its address, as llama-server's --api-prefix says.
	Prefix string
	// Key is the API key that it requires of its clients. Behind a Prefix even /health requires it.
	Key string
	// Timeout bounds the time until it is ready; 0 means no limit.
	Timeout time.Duration
	// Log is the file that what it prints is appended to. If it is empty, a new file in the folder Logs is, unless that is
	// empty, too.
	Log, Logs string
	// Records is the folder where a record is kept of it while it runs; none if empty.
	Records string
}

// Run runs the server until it ends, or until the context does, which ends the server. It returns nil in the latter case, an
// *ExitError where the server ended by itself, and another error where none was started.
func (s Server) Run(ctx context.Context, on func(Event)) error {
	out, err := s.output(on)
	if err != nil {
		return err
	}
	defer out.Close()
	if s.Records != "" {
		clearAway(s.Records)
	}
	var exit Exit
	for try := 1; ; try++ {
		var port int
		if port, err = freePort(s.host(), s.Port); err != nil {
			exit = Exit{Reason: ReasonPort, Tail: []string{}, Log: out.Path(), problem: err.Error()}
			exit.address = net.JoinHostPort(s.host(), strconv.Itoa(s.Port))
			break
		}
		if exit, err = s.once(ctx, port, out, on); err != nil {
			return err
		}
		if exit.Reason != ReasonPort || s.Port != 0 || try == maxTries {
			break
		}
	}
	exit.model, exit.timeout = s.Model.Name, s.Timeout
	on(exit)
	if exit.Reason == ReasonStopped {
		return nil
	}
	return &ExitError{exit}
}

func (s Server) host() string {
	if s.Host == "" {
		return "127.0.0.1"
	}
	return s.Host
}

// freePort returns a port on which no process listens: the one asked for, or, for 0, UsualPort,
// else any.
func freePort(host string, asked int) (int, error) {
	try := func(port int) (int, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			if operation, ok := errors.AsType[*net.OpError](err); ok {
				err = operation.Err
			}
			return 0, err
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port, nil
	}
	if asked != 0 {
		return try(asked)
	}
	if port, err := try(UsualPort); err == nil {
		return port, nil
	}
	return try(0)
}

// address is how this machine reaches a server.
func (s Server) address(port int) string {
	host := s.host()
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(port)) + s.Prefix
}

// once starts the server on a port and sees it through to its end.
func (s Server) once(ctx context.Context, port int, out *output, on func(Event)) (Exit, error) {
	began := time.Now()
	out.clear()
	kills := oomKills()
	p, err := start(s.Program, append(append([]string{}, s.Arguments...), "--host", s.host(), "--port", strconv.Itoa(port)), s.Environ, out)
	if err != nil {
		return Exit{}, fmt.Errorf("starting %s: %w", s.Program, err)
	}
	if s.Records != "" {
		if err := keep(s.Records, p.pid, out.Path()); err != nil {
			on(Warning{fmt.Sprintf("keeping no record of the server: %v", err)})
		}
		defer forget(s.Records)
	}
	// This does not depend on the events, which the caller may not be receiving.
	stopped := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		within := grace
		if errors.Is(context.Cause(ctx), ErrUnattended) {
			within = graceUnattended
		}
		p.stop(within)
		close(stopped)
	})
	url := s.address(port)
	on(Starting{URL: url, Port: port, PID: p.pid, Program: s.Program, Model: s.Model, Log: out.Path()})

	asking, enough := context.WithCancel(ctx)
	defer enough()
	answered := make(chan struct{})
	go func() {
		if s.answers(asking, url+"/health", p, port) {
			close(answered)
		}
	}()
	var late <-chan time.Time
	if s.Timeout > 0 {
		timer := time.NewTimer(s.Timeout - time.Since(began))
		defer timer.Stop()
		late = timer.C
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	ready, timedOut := false, false
	for running := true; running; {
		select {
		case <-p.ended:
			running = false
		case <-answered:
			select {
			case <-p.ended: // at the same time: what answered was another's
				running = false
				continue
			default:
			}
			ready, answered, late = true, nil, nil
			second.Stop()
			on(Ready{URL: url, PID: p.pid, Model: s.Model, Devices: append([]string{}, s.Devices...), Seconds: seconds(began)})
		case <-second.C:
			on(Loading{Seconds: seconds(began)})
		case <-late:
			timedOut, late = true, nil
			second.Stop()
			go p.stop(grace)
		}
	}
	if !unhook() {
		<-stopped
	}
	exit := p.exit()
	exit.Tail, exit.Log, exit.address = out.tail(tailLines), out.Path(), net.JoinHostPort(s.host(), strconv.Itoa(port))
	switch {
	case ctx.Err() != nil:
		exit.Reason = ReasonStopped
	case timedOut:
		exit.Reason = ReasonTimeout
	default:
		exit.explain(out.tail(ringLines), ready, oomKills() != kills)
	}
	return exit, nil
}

func seconds(since time.Time) float64 {
	return float64(time.Since(since).Round(time.Millisecond)) / float64(time.Second)
}

// answers waits until a process answers that it is ready, and reports whether it did before the context ended. Answers
// from another process on its port do not count.
func (s Server) answers(ctx context.Context, address string, p *process, port int) bool {
	client := &http.Client{
		Timeout:       answerLimit,
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy, whatever the environment says
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	status := func(key string) int {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return 0
		}
		if key != "" {
			request.Header.Set("Authorization", "Bearer "+key)
		}
		response, err := client.Do(request)
		if err != nil {
			return 0
		}
		response.Body.Close()
		return response.StatusCode
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-p.ended:
			return false
		case <-tick.C:
		}
		code := status("")
		if code != http.StatusOK && code != http.StatusUnauthorized || !p.listens(port) {
			continue
		}
		if code == http.StatusOK || status(s.Key) == http.StatusOK { // the key is for the server alone
			return true
		}
	}
}
