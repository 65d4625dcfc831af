package fetch

import (
	"context"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// Arguments are a program's arguments with the files of the models that they name, which are
// brought here if need be. The farm's programs cannot reach the Hub themselves, because they have
// no TLS, so they are given files instead: -hf and -mu become -m. A model's projector comes with it
// for programs that take one. getenv is os.Getenv: llama.cpp's flags have variables.
func (c *Client) Arguments(ctx context.Context, program string, arguments []string, getenv func(string) string) ([]string, error) {
	if len(launch.Models(arguments)) == 0 {
		return arguments, nil
	}
	r := replacement{Client: c, ctx: ctx, files: map[launch.Kind][]string{}}
	r.projected = slices.Contains([]string{"llama-server", "llama-cli", "llama-mtmd-cli"}, program) &&
		getenv("LLAMA_ARG_MMPROJ") == "" && getenv("LLAMA_ARG_MMPROJ_URL") == "" && getenv("LLAMA_ARG_NO_MMPROJ") == "" && !isOff(getenv("LLAMA_ARG_MMPROJ_AUTO"))
	var kept []string
	for i := 0; i < len(arguments); i++ {
		flag := arguments[i]
		kind := launch.KindOf(flag)
		switch {
		case kind == launch.Projector, kind == launch.ProjectorURL, slices.Contains([]string{"--no-mmproj", "--no-mmproj-auto"}, strings.ReplaceAll(flag, "_", "-")):
			r.projected = false
		case flag == "--offline":
			r.Client = r.offline()
		case flag == "-hft" || flag == "--hf-token":
			if i+1 < len(arguments) {
				r.Client = r.withToken(arguments[i+1])
			}
		}
		// llama.cpp takes -md for the file in the repository of -hfd, where both are given.
		of := map[launch.Kind]launch.Kind{launch.HubFile: launch.HubModel, launch.Draft: launch.HubDraft}[kind]
		if of != launch.NoModel && i+1 < len(arguments) && slices.ContainsFunc(arguments, func(a string) bool { return launch.KindOf(a) == of }) {
			i++
			r.files[of] = strings.Split(arguments[i], ",")
			continue
		}
		kept = append(kept, flag)
		if kind != launch.NoModel && i+1 < len(arguments) {
			i++
			kept = append(kept, arguments[i])
		}
	}
	return r.replace(kept)
}

func isOff(value string) bool {
	return slices.Contains([]string{"0", "off", "disabled", "false"}, strings.ToLower(value))
}

// offline is the client without the network.
func (c *Client) offline() *Client {
	o := *c
	o.Offline = true
	return &o
}

// withToken is the client with another token for the Hub.
func (c *Client) withToken(token string) *Client {
	t := *c
	h := *c.Hub
	h.Token, h.TokenProblem = token, nil
	t.Hub = &h
	return &t
}

// A replacement is the work of one call of Arguments.
type replacement struct {
	*Client
	ctx       context.Context
	files     map[launch.Kind][]string // those in the repositories of -hf and -hfd
	projected bool                     // the program is to have the model's projector
}

func (r *replacement) replace(arguments []string) ([]string, error) {
	var list []string
	for i := 0; i < len(arguments); i++ {
		list = append(list, arguments[i])
		kind := launch.KindOf(arguments[i])
		if kind == launch.NoModel || kind == launch.HubFile || i+1 == len(arguments) {
			continue
		}
		i++
		if kind == launch.ModelURL || kind == launch.ProjectorURL {
			if _, err := hub.ParseName(arguments[i], r.Hub.Endpoint); err != nil { // of another server: the program's own business
				list = append(list, arguments[i])
				continue
			}
		}
		value, projector, err := r.value(kind, arguments[i])
		if err != nil {
			return nil, err
		}
		switch kind {
		case launch.HubModel, launch.ModelURL:
			list[len(list)-1] = "-m"
		case launch.ProjectorURL:
			list[len(list)-1] = "--mmproj"
		case launch.HubDraft:
			list[len(list)-1] = "-md"
		}
		list = append(list, value)
		if projector != "" && r.projected {
			list = append(list, "--mmproj", projector)
			r.projected = false
		}
	}
	return list, nil
}

// value replaces the names in what a flag is given.
func (r *replacement) value(kind launch.Kind, argument string) (value, projector string, err error) {
	values := launch.Values(kind, argument)
	for i, name := range values {
		var scale string
		if kind == launch.Scaled {
			_, scale = launch.CutScale(strings.Split(argument, ",")[i])
		}
		if files := r.files[kind]; i < len(files) {
			n, err := hub.ParseName(name, r.Hub.Endpoint)
			if err != nil {
				return "", "", err
			}
			name = hub.Name{Repo: n.Repo, Revision: n.Revision, Path: files[i]}.String()
		} else if kind < launch.HubModel && launch.IsFile(name) {
			values[i] = name + scale
			continue
		}
		wanted := hub.Weights
		switch kind {
		case launch.Projector, launch.ProjectorURL:
			wanted = hub.Projector
		case launch.Model, launch.HubModel, launch.ModelURL:
			if r.projected {
				wanted = hub.WithProjector
			}
		}
		m, err := r.modelForRun(r.ctx, name, wanted)
		if err != nil {
			return "", "", err
		}
		values[i], projector = m.Path+scale, m.Projector
	}
	return strings.Join(values, ","), projector, nil
}
