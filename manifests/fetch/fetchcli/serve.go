package fetchcli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/serve"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

type serveFlags struct {
	host, port, log string
	timeout         time.Duration
	lifeline        bool
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve MODEL [flags] [-- argument...]",
		Short: "Serve a model with llama-server, and end the server when this command ends",
		Long: `Serve a model with llama-server, and end the server when this command ends.

The model is a file, or named as for pull; what is missing is installed and
downloaded first. The command reports when the server is ready, and why it ended,
with the end of its log. Arguments after -- are llama-server's own.

The server listens on 127.0.0.1, on port 8090 if that is free, else on a free one.
If LLAMA_API_KEY is set, clients must send that key. LLAMA_SERVER_PATH or
LLAMA_CPP_DIR select a llama-server of your own; if it is a script, it must exec.

Ctrl-C, SIGTERM and SIGHUP end the server, after 5 seconds by force. With --lifeline
it also ends at the end of standard input, and when the process that started
llcuda-fetch ends.`,
		Example: `  llcuda-fetch serve gemma-3-1b-it-Q4_K_M
  llcuda-fetch serve org/repo:Q4_K_M --port 8000 -- -c 8192 --parallel 4`,
		Args: a.oneModel,
		RunE: func(cmd *cobra.Command, args []string) error { return a.serve(cmd.Context(), args[0], args[1:], f) },
	}
	cmd.Flags().StringVar(&f.port, "port", "auto", "`port` to listen on, or auto: 8090 if it is free, else any free one")
	cmd.Flags().StringVar(&f.host, "host", "127.0.0.1", "`address` to listen on; 0.0.0.0 lets other machines connect")
	cmd.Flags().StringVar(&f.log, "log", "", "append the server's output to this `file` (default: a new one in the store's folder logs, which keeps the newest 10)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Minute, "longest `duration` until the server is ready; 0 is no limit")
	cmd.Flags().BoolVar(&f.lifeline, "lifeline", false, "for programs: end at the end of standard input, and when the process that started this one ends")
	return cmd
}

func (a *app) serve(ctx context.Context, model string, arguments []string, f serveFlags) error {
	server := serve.Server{Host: f.host, Timeout: f.timeout, Log: f.log, Prefix: option(arguments, "--api-prefix", "LLAMA_ARG_API_PREFIX")}
	server.Key, _, _ = strings.Cut(option(arguments, "--api-key", "LLAMA_API_KEY"), ",") // of a list any
	var err error
	if server.Port, err = parsePort(f.port); err != nil {
		return err
	}
	if err := notOurs(arguments); err != nil {
		return err
	}
	if f.timeout < 0 {
		return console.Usage(fmt.Errorf("--timeout %s is negative", f.timeout), "0 is no limit")
	}
	interrupted := ctx
	// The reader of this process's output may be gone before this process ends the server: SIGPIPE must not end it
	// first.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
		defer stop()
	}
	if f.lifeline {
		var end context.CancelCauseFunc
		ctx, end = context.WithCancelCause(ctx)
		defer end(nil)
		go watchLifeline(ctx, os.Stdin, func() { end(serve.ErrUnattended) })
	}

	c, err := a.client("serve")
	if err != nil {
		return err
	}
	if server.Program, err = c.OwnServer(os.Getenv); err != nil {
		return console.Usage(err, fetch.Hints(err)[0])
	}
	server.Environ = os.Environ()
	if server.Program != "" {
		a.term.notef("using %s, as the environment says", server.Program)
	} else {
		current, err := a.installed(ctx, c)
		if err != nil {
			return err
		}
		if server.Program, err = c.Program(current, fetch.ServerName); err != nil {
			return err
		}
		server.Environ, server.Devices = c.Store.Programs(current).Environ(server.Environ), current.Seen
	}
	if server.Arguments, err = c.Arguments(ctx, fetch.ServerName, append([]string{"-m", model}, arguments...), os.Getenv); err != nil {
		return err
	}
	path := server.Arguments[1]
	if _, err := os.Stat(path); err != nil {
		return console.Usage(fmt.Errorf("looking for the model: %w", err), "llcuda-fetch models lists those known by name; others are org/repo:file.gguf")
	}
	server.Model = serve.Model{Name: model, Path: path, Size: fetch.ModelSize(path)}
	if launch.IsFile(model) {
		server.Model.Name = filepath.Base(model)
	}
	if server.Logs, server.Records, err = c.Store.ServerFolders(); err != nil {
		a.term.warnf("keeping no log and no record of the server: %v", err)
	}

	a.endsInOrder.Store(true)     // the server must be neither left behind nor killed at once
	if interrupted.Err() != nil { // before that, so this process has no time left
		return context.Cause(interrupted)
	}
	err = server.Run(ctx, a.tellServer())
	if exit, ok := errors.AsType[*serve.ExitError](err); ok && exit.Reason == serve.ReasonArgument {
		return console.Usage(err, exit.Hint())
	}
	return err
}

func parsePort(text string) (int, error) {
	if text == "auto" {
		return 0, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, console.Usage(fmt.Errorf("there is no port %q", text), "a port is a number from 1 to 65535; auto takes a free one")
	}
	return int(port), nil
}

// notOurs refuses arguments of llama-server that this command gives it itself.
func notOurs(arguments []string) error {
	for _, argument := range arguments {
		flag := argument
		if strings.HasPrefix(flag, "--") {
			flag = strings.ReplaceAll(flag, "_", "-")
		}
		switch {
		case flag == "--host", flag == "--port":
			return console.Usage(fmt.Errorf("%s stands after --, and serve sets it for llama-server", argument), "give it before --")
		case slices.Contains([]launch.Kind{launch.Model, launch.HubModel, launch.HubFile, launch.ModelURL}, launch.KindOf(argument)):
			return console.Usage(fmt.Errorf("%s names a second model", argument), "name the model once, before --")
		}
	}
	return nil
}

// option is what llama-server takes for a flag, which has a variable, too.
func option(arguments []string, flag, variable string) string {
	at := slices.IndexFunc(arguments, func(a string) bool { return strings.ReplaceAll(a, "_", "-") == flag })
	if at >= 0 && at+1 < len(arguments) {
		return arguments[at+1]
	}
	return os.Getenv(variable)
}

// watchLifeline calls end when standard input ends, or when the process that started this one ends. A process forked by
// that one may hold the pipe open inadvertently, as those of multiprocessing do.
func watchLifeline(ctx context.Context, stdin io.Reader, end func()) {
	defer end()
	closed := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		close(closed)
	}()
	const every = 250 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	// Not PR_SET_PDEATHSIG: that goes by the thread that started this process, which may end long before its process does.
	for parent := os.Getppid(); parent == os.Getppid(); {
		select {
		case <-ctx.Done():
			return
		case <-closed:
			return
		case <-tick.C:
		}
	}
}

// The events of serve, beside those of every command.
type (
	startingEvent struct {
		eventHead
		serve.Starting
	}
	loadingEvent struct {
		eventHead
		serve.Loading
	}
	readyEvent struct {
		eventHead
		serve.Ready
	}
	exitEvent struct {
		eventHead
		serve.Exit
	}
)

// tellServer reports the changes in a server's state. Its address is the command's result, which comes while it runs.
func (a *app) tellServer() func(serve.Event) {
	var said time.Duration
	return func(happened serve.Event) {
		head := event(happened.Kind())
		switch e := happened.(type) {
		case serve.Starting:
			text := fmt.Sprintf("starting %s with %s at %s", fetch.ServerName, e.Model.Name, e.URL)
			if e.Log != "" {
				text += "; its log is " + shortPath(e.Log)
			}
			a.term.tell(startingEvent{head, e}, text)
		case serve.Loading:
			text, so := "", time.Duration(e.Seconds*float64(time.Second))
			if so-said >= console.PlainEvery {
				said, text = so, "still loading after "+measure.Time(so)
			}
			a.term.tell(loadingEvent{head, e}, text)
		case serve.Ready:
			a.term.tell(readyEvent{head, e}, "")
			if a.json {
				_ = a.print(e) // of strings and numbers
				return
			}
			a.term.printf("%s is ready at %s", e.Model.Name, e.URL)
			if a.term.Live {
				a.term.notef("Ctrl-C ends it")
			}
		case serve.Exit:
			text := ""
			if e.Reason == serve.ReasonStopped {
				text = fetch.ServerName + " has ended"
			}
			a.term.tell(exitEvent{head, e}, text)
		case serve.Warning:
			a.term.warnf("%s", e.Message)
		}
	}
}
