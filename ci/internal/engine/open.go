package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"dagger.io/dagger"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/builtin"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	runnerHostVar = "_EXPERIMENTAL_DAGGER_RUNNER_HOST"
	cliVar        = "_EXPERIMENTAL_DAGGER_CLI_BIN"

	// runtimeTimeout is how long a container runtime may take to report that its daemon is running.
	runtimeTimeout = 10 * time.Second
	// connectTimeout is how long an engine may take to accept a client; it may be busy.
	connectTimeout = 2 * time.Minute
)

// Options select the engines to use, and for what. Source and Toolkits are required.
type Options struct {
	Hosts    []string // runner hosts; none means the first engine that is found
	Base     string   // what the builder image starts from: see prepareImage
	CacheDir string   // for what the builder image is made of, and what the web UI is built from
	// Engine is what bundles should record, like "dagger v0.15.1", if not empty: the built-in engine comes first where it
	// is that. Whether the one that is found is, the caller sees in the recipe.
	Engine string
	Jobs   int // compile jobs at once on each engine; 0 is as many as its cores and memory allow
	// CompilerCache is a folder with what ccache kept of earlier builds, which this one uses and replaces; none if empty.
	// Whoever can write there decides what is compiled.
	CompilerCache string
	Source        farm.Source
	// Toolkits are those to compile with. The first one's image compiles everything that is no device code.
	Toolkits []matrix.Toolkit
	Progress func(farm.Event) // of finding and preparing; Step is "engine"
}

// Session is a set of connected engines, and how they will compile the source.
type Session struct {
	Builders []farm.Builder
	Recipes  []farm.Recipe // one for each of the toolkits

	clients []*dagger.Client
}

// Close ends the connections and leaves the engines running.
func (s *Session) Close() error {
	var errs []error
	for _, client := range s.clients {
		errs = append(errs, client.Close())
	}
	return errors.Join(errs...)
}

// UnavailableError means that no engine is available.
type UnavailableError struct {
	Err  error
	Hint string
}

func (e *UnavailableError) Error() string { return e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// ThreeWays is the hint of every error about a missing engine.
const ThreeWays = "an engine comes from $" + runnerHostVar + ", from a running Docker, Podman or nerdctl, " +
	"or on Linux as root from go run ./ci engine up"

// endpoint is one engine to connect to.
type endpoint struct {
	name    string
	host    string       // empty leaves it to the SDK
	program string       // the Dagger client that speaks to it; empty leaves that to the SDK, too
	builtIn builtin.Info // where it is one of this machine's own
}

// listens fails at once if nothing listens at the address: a Dagger client would keep trying for
// minutes. Hosts of other kinds are left to the client.
func (e endpoint) listens(ctx context.Context) error {
	network, address, _ := strings.Cut(e.host, "://")
	if network != "unix" && network != "tcp" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Open finds and connects engines and readies the builder image on this machine. The
// engines are looked for in this order: the hosts asked for, $_EXPERIMENTAL_DAGGER_RUNNER_HOST,
// a container runtime (the SDK's own way), the built-in engine. If an engine is not available, the
// error is an *UnavailableError; if the source cannot be built, it is a *farm.SourceError, before any
// engine is looked for.
func Open(ctx context.Context, opts Options) (*Session, error) {
	var tree llamaTree
	var err error
	if opts.Source.Dir != "" { // else nothing of llama.cpp is compiled: the probe, or a wheel
		if tree, err = readLlamaTree(opts.Source); err != nil {
			return nil, err
		}
	}
	endpoints, err := find(ctx, opts)
	if err != nil {
		return nil, err
	}
	for _, e := range endpoints {
		if err := e.listens(ctx); err != nil {
			return nil, &UnavailableError{fmt.Errorf("connecting to the engine %s: %w", e.name, err), ThreeWays}
		}
	}
	images, err := opts.prepareImages(ctx)
	if err != nil {
		return nil, err
	}
	session := &Session{}
	var version string
	for _, e := range endpoints {
		b, err := connect(ctx, e, images, opts)
		if err != nil {
			return nil, errors.Join(err, session.Close())
		}
		session.clients = append(session.clients, b.client)
		session.Builders = append(session.Builders, b)
		v, err := b.client.Version(ctx)
		switch {
		case err != nil:
			return nil, errors.Join(&UnavailableError{fmt.Errorf("asking %s for its version: %w", e.name, err), ThreeWays}, session.Close())
		case version == "":
			version = v
		case v != version:
			return nil, errors.Join(&UnavailableError{
				fmt.Errorf("%s is Dagger %s, %s is %s: bundles record one version", endpoints[0].name, version, e.name, v),
				"use engines of one version"}, session.Close())
		}
	}
	session.Recipes = tree.recipes(opts.Toolkits, opts.Source, images, engineName(version))
	return session, nil
}

// find resolves the options to engines, and starts the built-in one if it is needed.
func find(ctx context.Context, opts Options) ([]endpoint, error) {
	hosts := opts.Hosts
	if len(hosts) == 0 && os.Getenv(runnerHostVar) != "" {
		hosts = strings.Split(os.Getenv(runnerHostVar), ",")
	}
	if len(hosts) > 0 {
		return named(ctx, hosts)
	}
	if opts.Engine != "" {
		if e, version, err := opts.builtIn(ctx); err == nil && engineName(version) == opts.Engine {
			return []endpoint{e}, nil
		}
	}
	if name := containerRuntime(ctx); name != "" {
		return []endpoint{{name: name}}, nil
	}
	e, _, err := opts.builtIn(ctx)
	if err != nil {
		return nil, &UnavailableError{err, ThreeWays}
	}
	return []endpoint{e}, nil
}

// builtIn starts the built-in engine, if need be.
func (o Options) builtIn(ctx context.Context) (e endpoint, version string, err error) {
	control, err := builtin.New(builtin.Options{})
	if err != nil {
		return endpoint{}, "", err
	}
	info, err := control.Up(ctx, o.report("built-in"))
	return endpoint{name: "built-in", host: info.RunnerHost, program: info.CLI, builtIn: info}, info.Version, err
}

// engineName is an engine as bundles record it.
func engineName(version string) string { return "dagger " + version }

// Exposed returns those of the hosts, or if none are given of those in
// $_EXPERIMENTAL_DAGGER_RUNNER_HOST, that are reached at a public address: an engine authenticates
// no client and encrypts nothing, so that an attacker on the network path, or one who reaches the
// port, decides what is built. Addresses of this machine, of private networks and of tunnels
// (RFC 1918, 4193, 6598) are not public, nor are hosts without an address, like unix://. A name that
// cannot be resolved is left to the connection, which fails.
func Exposed(ctx context.Context, hosts []string) []string {
	if len(hosts) == 0 {
		hosts = strings.Split(os.Getenv(runnerHostVar), ",")
	}
	var exposed []string
	for _, host := range hosts {
		scheme, address, _ := strings.Cut(host, "://")
		switch strings.ToLower(scheme) {
		case "tcp", "http", "https":
		default:
			continue
		}
		address, _, _ = strings.Cut(address, "/")
		if _, after, credentials := strings.Cut(address, "@"); credentials {
			address = after
		}
		name, _, err := net.SplitHostPort(address)
		if err != nil {
			name = strings.Trim(address, "[]")
		}
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			continue
		}
		if slices.ContainsFunc(found, isPublic) {
			exposed = append(exposed, host)
		}
	}
	return exposed
}

// sharedAddresses are those of carriers' and of overlay networks: RFC 6598.
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

func isPublic(ip netip.Addr) bool {
	ip = ip.Unmap()
	return !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast() && !ip.IsUnspecified() && !sharedAddresses.Contains(ip)
}

// Store returns the folder where the engine that Open would choose for the hosts keeps its cache,
// running or not; empty if that is not on this machine, or if only a container runtime knows it.
func Store(hosts []string) string {
	if len(hosts) == 0 && os.Getenv(runnerHostVar) != "" {
		hosts = strings.Split(os.Getenv(runnerHostVar), ",")
	}
	if len(hosts) == 0 {
		for _, name := range containerRuntimes() {
			if _, err := exec.LookPath(name); err == nil {
				return ""
			}
		}
		hosts = []string{builtin.RunnerHost(builtin.DefaultName)}
	}
	for _, host := range hosts {
		name, ok := builtin.NameOf(host)
		if !ok {
			continue
		}
		if control, err := builtin.New(builtin.Options{Name: name}); err == nil {
			return control.StateDir()
		}
	}
	return ""
}

// named are the engines that the user named. Those built in here bring their own client,
// unless the user chose one.
func named(ctx context.Context, hosts []string) ([]endpoint, error) {
	var endpoints []endpoint
	for _, host := range hosts {
		e := endpoint{name: host, host: host, program: os.Getenv(cliVar)}
		if name, ok := builtin.NameOf(host); ok && e.program == "" {
			control, err := builtin.New(builtin.Options{Name: name})
			if err != nil {
				return nil, err
			}
			info, err := control.Status(ctx)
			if err != nil {
				return nil, &UnavailableError{err, ThreeWays}
			}
			if !info.Answers {
				return nil, &UnavailableError{fmt.Errorf("the built-in engine %s does not answer", name), "go run ./ci engine up --name " + name}
			}
			e.name, e.program, e.builtIn = name, info.CLI, info
		}
		endpoints = append(endpoints, e)
	}
	return endpoints, nil
}

func containerRuntimes() []string { return []string{"docker", "podman", "nerdctl"} }

// containerRuntime is the first runtime whose daemon answers, in the order in which the SDK
// tries them. A client without its daemon does not count.
func containerRuntime(ctx context.Context) string {
	for _, name := range containerRuntimes() {
		ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
		err := exec.CommandContext(ctx, name, "info").Run()
		cancel()
		if err == nil {
			return name
		}
	}
	return ""
}

// limitsOf are the limits of a control group of this machine, as stages/jobs.sh prints them. Without the programs that
// the script needs there are none to be found.
func limitsOf(ctx context.Context, group string) string {
	script, err := stageFiles.ReadFile("stages/jobs.sh")
	if err != nil {
		panic(err) // embedded
	}
	out, err := exec.CommandContext(ctx, "sh", "-c", string(script), "jobs.sh", "limits", group).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// connect opens a session with one engine.
func connect(ctx context.Context, e endpoint, images map[string]Image, opts Options) (*builder, error) {
	b := &builder{
		name: e.name, console: &console{}, images: images, cacheDir: opts.CacheDir, jobs: opts.Jobs, store: e.builtIn.StateDir,
		volume: objectsVolume, objects: opts.CompilerCache,
	}
	if e.builtIn.Cgroup != "" {
		b.limits = limitsOf(ctx, e.builtIn.Cgroup)
	}
	var how []dagger.ClientOpt
	switch {
	case e.program != "":
		starting, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		conn, err := startClient(starting, e.program, e.host, b.console)
		if err != nil {
			return nil, &UnavailableError{err, ThreeWays}
		}
		how = []dagger.ClientOpt{dagger.WithConn(conn)}
	case e.host != "":
		how = []dagger.ClientOpt{dagger.WithLogOutput(b.console), dagger.WithRunnerHost(e.host)}
	default:
		how = []dagger.ClientOpt{dagger.WithLogOutput(b.console)}
	}
	client, err := dagger.Connect(ctx, how...)
	if err != nil {
		return nil, &UnavailableError{fmt.Errorf("connecting to the engine %s: %w", e.name, err), ThreeWays}
	}
	b.client = client
	return b, nil
}

// report passes a stage's lines to Progress.
func (o Options) report(stage string) func(string) {
	return func(line string) {
		if o.Progress != nil {
			o.Progress(farm.Event{Step: "engine", Stage: stage, State: farm.StateLine, Line: line})
		}
	}
}

// prepareImages prepares the toolkits' images as a stage that it reports to Progress, in MB.
func (o Options) prepareImages(ctx context.Context) (map[string]Image, error) {
	send := func(e farm.Event) {
		if e.Step, e.Stage = "engine", "packages"; o.Progress != nil {
			o.Progress(e)
		}
	}
	send(farm.Event{State: farm.StateStart})
	images := map[string]Image{}
	base := o.Base
	for _, toolkit := range o.Toolkits {
		image, err := prepareImage(ctx, toolkit.Name, base, o.CacheDir, func(at measure.Progress) {
			send(farm.Event{State: farm.StateProgress}.Megabytes(at))
		})
		if err != nil {
			send(farm.Event{State: farm.StateFailed})
			return nil, err
		}
		images[toolkit.Name] = image
		// All images have one base, wherever a tag moves meanwhile.
		if base = image.Base; image.archive != "" {
			base = BaseMade
		}
	}
	send(farm.Event{State: farm.StateDone})
	return images, nil
}

var _ farm.Builder = (*builder)(nil)
