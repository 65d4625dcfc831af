package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/hfhub"
)

func newPublishModelsCommand(term *terminal) *cobra.Command {
	p := &publishModelsCommand{term: term, made: map[string]madeModel{}}
	cmd := &cobra.Command{
		Use:   "models",
		Short: "Publish GGUF models to a repository of the Hugging Face Hub",
		Long: `Publish GGUF models to a repository of the Hugging Face Hub, in one commit with
the page that describes them. The models are those of matrix/models.yaml: each
is downloaded from where that says, or taken from this machine with --local,
checked by its sha256, and read for the page. A model is refused if its license
forbids publishing it, or is not known to allow that.

Files that the repository already has are neither downloaded nor sent again. Models
that it has and that you do not name stay, on the page as well.

The token is that of HF_TOKEN, or of the file where the Hub's own tools keep it. In
GitHub Actions no token is needed if the job has the permission id-token: write and
the workflow is one of the repository's Trusted Publishers.`,
		Example: `  go run ./ci publish models --repo owner/llcuda-models --dry-run
  go run ./ci publish models --repo owner/llcuda-models --only gemma-3-1b-it-Q4_K_M --license gemma=terms.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&p.repo, "repo", "", "the Hub's `repository`: owner/llcuda-models")
	flags.StringSliceVar(&p.only, "only", nil, "publish only the models with these `names`")
	flags.StringArrayVar(&p.local, "local", nil, "use this file for a model: `NAME=FILE`")
	flags.StringArrayVar(&p.texts, "license", nil, "text of a license that must accompany a model: `ID=FILE`, such as gemma=terms.txt")
	flags.StringVar(&p.list, "models", "", "`file` to use instead of matrix/models.yaml")
	flags.StringVar(&p.address, "endpoint", "", "`URL` of the Hub (HF_ENDPOINT)")
	flags.BoolVar(&p.private, "private", false, "if the repository does not exist, create it as a private one")
	flags.BoolVar(&p.dryRun, "dry-run", false, "show what would be done, and do nothing")
	return cmd
}

// A publishModelsCommand is one run of the command.
type publishModelsCommand struct {
	term *terminal

	repo, list, address string
	only, local, texts  []string
	private, dryRun     bool

	models []matrix.Model
	files  map[string]string // a model's name → its file on this machine
	given  map[string][]byte // a license's ID → its text
	source *hub.Client
	client *hfhub.Client
	// anonymous means that there is neither a token nor anything to exchange for one.
	anonymous bool
	made      map[string]madeModel
}

func (p *publishModelsCommand) run(ctx context.Context) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.dryRun {
		return p.plan(ctx)
	}
	if p.anonymous { // said before anything is downloaded
		return &publisher.RefusedError{Err: errors.New("publishing models: there is no token"),
			Way: "set HF_TOKEN to one that may write to " + p.repo + ", from " + p.source.Endpoint + "/settings/tokens"}
	}
	result, err := p.client.Publish(ctx, p.repo, p.build, hfhub.Options{Message: p.message(), Private: p.private, Progress: p.term.Transfers("uploading", "uploaded").Report})
	if err != nil {
		return p.refuse(err)
	}
	p.advise()
	missing := result.Missing()
	if len(missing) == 0 {
		p.term.Printf("%s: nothing to do, commit %s has everything", result.URL, result.Commit)
		return nil
	}
	for _, change := range missing {
		p.term.Notef("published %s, %s, sha256:%s", change.Path, measure.Bytes(change.Size), change.SHA256)
	}
	p.term.Printf("%s: commit %s, %d files, %s sent", result.URL, result.Commit, len(missing), measure.Bytes(result.Sent))
	return nil
}

// check reads the flags and everything they name, before anything costs time.
func (p *publishModelsCommand) check() error {
	if p.repo == "" {
		return console.Usage(errors.New("--repo is missing"), "name the repository, like --repo owner/llcuda-models")
	}
	if err := hfhub.CheckRepo(p.repo); err != nil {
		return console.Usage(fmt.Errorf("--repo: %w", err), "like --repo owner/llcuda-models")
	}
	if err := p.choose(); err != nil {
		return err
	}
	var err error
	if p.files, err = p.pairs("--local", p.local); err != nil {
		return err
	}
	texts, err := p.pairs("--license", p.texts)
	if err != nil {
		return err
	}
	p.given = map[string][]byte{}
	for id, name := range texts {
		if p.given[id], err = os.ReadFile(name); err != nil {
			return console.Usage(fmt.Errorf("--license %s: %w", id, err), "give the file with the license text")
		}
	}
	for name := range p.files {
		if !slices.ContainsFunc(p.models, func(m matrix.Model) bool { return m.Name == name }) {
			return console.Usage(fmt.Errorf("--local %s: that model is not published", name), "published are "+names(p.models))
		}
	}
	for _, m := range p.models {
		if _, err := m.Redistribution(); err != nil {
			return p.refuse(err)
		}
	}

	getenv := os.Getenv
	if p.address != "" {
		getenv = func(name string) string {
			if name == "HF_ENDPOINT" {
				return p.address
			}
			return os.Getenv(name)
		}
	}
	if p.source, err = hub.FromEnvironment(getenv); err == nil {
		err = cmp.Or(p.source.EndpointProblem, p.source.TokenProblem)
	}
	if err != nil {
		return console.Usage(err, "check --endpoint, and the variables HF_ENDPOINT, HF_HOME and HF_TOKEN")
	}
	if p.source.Offline {
		return console.Usage(errors.New("publishing models: the network is switched off"), "unset HF_HUB_OFFLINE")
	}
	p.client = &hfhub.Client{Endpoint: p.source.Endpoint, Tokens: hfhub.StaticToken(p.source.Token), Waiting: p.waiting}
	if p.source.Token == "" {
		tokens, ok := p.client.TrustedPublisher(os.Getenv, p.repo)
		if ok {
			p.client.Tokens = tokens
		}
		p.anonymous = !ok
	}
	return nil
}

// choose reads the list of models and what of it is wanted.
func (p *publishModelsCommand) choose() error {
	all, err := spec.DefaultModels()
	if p.list != "" {
		var file *os.File
		if file, err = os.Open(p.list); err != nil {
			return console.Usage(err, "give a file like matrix/models.yaml")
		}
		defer file.Close()
		if all, err = spec.LoadModels(file); err != nil {
			return console.Usage(fmt.Errorf("reading %s: %w", p.list, err), "matrix/models.yaml shows what such a file holds")
		}
	}
	if err != nil {
		return err
	}
	if len(p.only) == 0 {
		p.models = all
		return nil
	}
	for _, name := range p.only {
		i := slices.IndexFunc(all, func(m matrix.Model) bool { return m.Name == name || slices.Contains(m.Aliases, name) })
		if i < 0 {
			return console.Usage(fmt.Errorf("--only %s: there is no such model", name), "known are "+names(all))
		}
		if !slices.ContainsFunc(p.models, func(m matrix.Model) bool { return m.Name == all[i].Name }) {
			p.models = append(p.models, all[i])
		}
	}
	return nil
}

func names(models []matrix.Model) string {
	var list []string
	for _, m := range models {
		list = append(list, m.Name)
	}
	return strings.Join(list, ", ")
}

// pairs reads NAME=FILE.
func (p *publishModelsCommand) pairs(flag string, given []string) (map[string]string, error) {
	found := map[string]string{}
	for _, pair := range given {
		name, file, ok := strings.Cut(pair, "=")
		if !ok || name == "" || file == "" || found[name] != "" {
			return nil, console.Usage(fmt.Errorf("%s %q is not NAME=FILE, each name once", flag, pair), "like "+flag+" name=path/of/the/file")
		}
		found[name] = file
	}
	return found, nil
}

// plan prints what would be done, without downloading anything.
func (p *publishModelsCommand) plan(ctx context.Context) error {
	head, err := p.client.Head(ctx, p.repo)
	if err != nil {
		return err
	}
	old, _, err := p.held(ctx, head)
	if err != nil {
		return p.refuse(err)
	}
	if head.Commit == "" {
		p.term.Printf("create    %s/%s", p.source.Endpoint, p.repo)
	}
	for _, m := range p.models {
		size := "size not known yet"
		if m.Size > 0 {
			size = measure.Bytes(m.Size)
		}
		from := hub.Ref{Repo: m.Repo, Path: m.File, Revision: cmp.Or(m.Revision, "main")}.String()
		if local, ok := p.files[m.Name]; ok {
			ready, err := p.make(ctx, m)
			if err != nil {
				return err
			}
			from, size = local, measure.Bytes(ready.Size)
			if slices.ContainsFunc(old, func(o hfhub.Model) bool { return o.File == ready.File && o.SHA256 == ready.SHA256 }) {
				p.term.Printf("there     %s", hfhub.FileName(m))
				continue
			}
		}
		if slices.ContainsFunc(old, func(o hfhub.Model) bool { return p.isThere(m, o) }) {
			p.term.Printf("there     %s", hfhub.FileName(m))
			continue
		}
		p.term.Printf("publish   %s, %s, from %s, license %s", hfhub.FileName(m), size, from, m.Licence)
	}
	for _, o := range old {
		if !slices.ContainsFunc(p.models, func(m matrix.Model) bool { return m.Name == o.Name }) {
			p.term.Printf("keep      %s", o.File)
		}
	}
	return nil
}

func (p *publishModelsCommand) message() string {
	var list []string
	for _, m := range p.models {
		list = append(list, m.Name)
	}
	const several = 3 // names that a title holds
	if len(list) > several {
		return fmt.Sprintf("Publish %d models", len(list))
	}
	return "Publish " + strings.Join(list, ", ")
}

// refuse wraps errors so that they get their exit codes.
func (p *publishModelsCommand) refuse(err error) error {
	switch {
	case isAs[*matrix.LicenceError](err), isAs[*hub.MismatchError](err), isAs[*hfhub.CatalogueError](err):
		return failure.Refuse(err, hintFor(err))
	case isAs[*hub.GatedError](err), isAs[*hub.TokenError](err), isAs[*hub.RepositoryError](err):
		return &publisher.RefusedError{Err: err, Way: hintFor(err)}
	}
	return err
}

// waiting reports waits that are long enough to make a user wonder.
func (p *publishModelsCommand) waiting(wait time.Duration, why error) {
	const long = 10 * time.Second
	if wait >= long {
		p.term.Notef("waiting %s: %v", wait.Round(time.Second), why)
	}
}

// advise prints what could now be added to models.yaml.
func (p *publishModelsCommand) advise() {
	for _, m := range p.models {
		if ready, ok := p.made[m.Name]; ok && m.SHA256 == "" {
			p.term.Notef("models.yaml could say of %s: size: %d, sha256: %s, vram_mib: %d", m.Name, ready.Size, ready.SHA256, ready.VRAM)
		}
	}
}
