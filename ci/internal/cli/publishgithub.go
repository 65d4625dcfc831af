package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/changes"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
)

// A publishGitHubCommand is one release folder on its way to GitHub.
type publishGitHubCommand struct {
	gitHubFlags
	dir      release.Dir
	commit   string
	latest   string
	draft    bool
	replace  bool
	dryRun   bool
	signedBy trust
	cache    string
	// table is the matrix, which the notes need.
	table matrix.Matrix
	// verified means that the caller verifies what is public afterwards, so that it is not read back.
	verified bool
}

func newPublishGitHubCommand(term *terminal) *cobra.Command {
	var g publishGitHubCommand
	cmd := &cobra.Command{
		Use:   "github DIR",
		Short: "Publish a signed release folder as a GitHub release",
		Long: `Publish a signed release folder as a GitHub release: verify the signature, make
or find the draft, upload what is missing, read everything back and compare, make
the draft public, and download it all once more as anyone can. Its notes say what
changed since the release before, as go run ./ci compare does.

After a failure or a kill at any moment, repeat the command: it resumes. It never
changes a public release; it only completes it.

The token is GITHUB_TOKEN or GH_TOKEN; it must be allowed to write the contents
of the repository. It is sent to the API and its upload host only.`,
		Example: `  go run ./ci publish github dist --dry-run
  go run ./ci publish github dist`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if g.dir, err = existingDir(args[0]); err != nil {
				return err
			}
			if g.table, err = spec.Default(); err != nil {
				return fmt.Errorf("reading the matrix: %w", err)
			}
			return g.run(cmd.Context(), term)
		},
	}
	g.flags(cmd)
	g.signedBy.flags(cmd)
	cacheFlag(cmd, &g.cache)
	return cmd
}

// flags are those of every command that publishes, but for whose signature counts.
func (g *publishGitHubCommand) flags(cmd *cobra.Command) {
	g.gitHubFlags.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&g.commit, "commit", "", "`commit` of the tag, which is created if it does not exist (default: in GitHub Actions the one that runs, else the default branch's)")
	flags.StringVar(&g.latest, "latest", string(publisher.LatestTrue), "whether it becomes the latest release: true, false, or legacy for GitHub's own `choice`")
	flags.BoolVar(&g.draft, "draft", false, "stop at the draft; the same command without --draft makes it public")
	flags.BoolVar(&g.replace, "replace", false, "replace files of a draft that differ")
	flags.BoolVar(&g.dryRun, "dry-run", false, "show what would be done, and do nothing")
}

func (g *publishGitHubCommand) run(ctx context.Context, term *terminal) error {
	store, server, err := g.store()
	if err != nil {
		return err
	}
	folder, signer, err := openSigned(ctx, g.dir, &g.signedBy)
	if err != nil {
		return err
	}
	tag := folder.Release.Release
	if err := ghrelease.Check(folder); err != nil {
		return err
	}
	benchmark, err := g.dir.Benchmark(folder.Release)
	if err != nil {
		return err
	}
	downloads := server + "/" + g.repo + "/releases/download/" + url.PathEscape(tag)
	opts := publisher.Options{Draft: g.draft, Latest: publisher.Latest(g.latest), Replace: g.replace, Note: func(line string) { term.Notef("%s", line) }}
	notes := publisher.NotesOptions{Downloads: downloads, Identity: signer.Identity, Issuer: signer.Issuer, Benchmark: benchmark}
	if err := g.compare(ctx, term, store, server, tag, &notes); err != nil {
		return err
	}
	opts.Notes = publisher.Notes(folder.Release, g.table, notes)
	if g.dryRun {
		plan, err := publisher.MakePlan(ctx, store, folder, opts)
		if err != nil {
			return err
		}
		g.printPlan(term, folder, plan)
		return nil
	}
	term.Notef("publish   %s, %d files, %s, signed by %s", tag, len(folder.Files), measure.Bytes(folder.Size()), signer.By())
	opts.Progress = term.Transfers("uploading", "uploaded").Report
	result, err := publisher.Publish(ctx, store, folder, opts)
	if err != nil {
		return fmt.Errorf("publishing %s to %s: %w", g.dir, g.repo, err)
	}
	sent := fmt.Sprintf("%d files, %d of them sent now", len(folder.Files), len(result.Sent))
	if result.Release.Draft {
		term.Printf("%s: a draft of %s, %s", result.Release.URL, tag, sent)
		return nil
	}
	how := "published"
	if !result.Promoted && len(result.Sent) == 0 {
		how = "already published, and the same"
	}
	seen := ""
	if !g.verified {
		if err := g.readBack(ctx, term, server, folder); err != nil {
			return fmt.Errorf("reading what was published: %w", err)
		}
		seen = "; all can be downloaded"
	}
	term.Printf("%s: %s, %s%s", result.Release.URL, how, sent, seen)
	return nil
}

// notesPatience is how long a release is held up for the one that its notes compare it with.
const notesPatience = 2 * time.Minute

// compare has the notes say what changed since the release before. Where that cannot be found out,
// it warns, and they say nothing of it: its error is the user's interrupt alone.
func (g *publishGitHubCommand) compare(ctx context.Context, term *terminal, store *ghrelease.Store, server, tag string, notes *publisher.NotesOptions) error {
	found, err := g.changes(ctx, store, server, tag)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		term.Warnf("the notes do not say what changed since the release before: %v\nonce both can be read, go run ./ci compare prints it, and the notes can be edited on GitHub", err)
	case found == nil:
		term.Notef("notes     of a first release: there is none before %s", tag)
		notes.First = true
	default:
		term.Notef("notes     with the changes since %s", found.Before)
		notes.Changes = found
	}
	return nil
}

// changes compares the folder with the release before; nil where there is none.
func (g *publishGitHubCommand) changes(ctx context.Context, store *ghrelease.Store, server, tag string) (*changes.Changes, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, notesPatience, fmt.Errorf("no answer within %s", measure.Time(notesPatience)))
	defer cancel()
	work, remove, err := bundler.Scratch(ctx, "", "notes")
	if err != nil {
		return nil, err
	}
	defer remove()
	verifier, err := g.signedBy.verifier()
	if err != nil {
		return nil, err
	}
	previous, err := release.ReadPrevious(ctx, tag, store.Published, func(ctx context.Context, tag string) (changes.Release, error) {
		at := publicFlags{repo: g.repo, server: server, tag: tag}
		return release.Public{Folder: at.folder()}.Read(ctx, tag, verifier, release.Dir(work), func(publisher.Progress) {})
	})
	if err != nil || previous == nil {
		return nil, err
	}
	mine, err := g.dir.Read(ctx)
	if err != nil {
		return nil, err
	}
	found := changes.Compare(*previous, mine, g.table.LlamaCPP.Repository)
	return &found, nil
}

// store is the repository's releases, and the address of the server that has it.
func (g *publishGitHubCommand) store() (store *ghrelease.Store, server string, err error) {
	switch publisher.Latest(g.latest) {
	case publisher.LatestTrue, publisher.LatestFalse, publisher.LatestLegacy:
	default:
		return nil, "", console.Usage(fmt.Errorf("--latest %q", g.latest), "true, false or legacy")
	}
	commit := g.commit
	if commit == "" && os.Getenv("GITHUB_ACTIONS") == "true" && strings.EqualFold(os.Getenv("GITHUB_REPOSITORY"), g.repo) {
		commit = os.Getenv("GITHUB_SHA")
	}
	if store, server, err = g.gitHubFlags.store(commit); err == nil && gitHubToken() == "" {
		err = console.Usage(errors.New("there is no token: GITHUB_TOKEN is not set"), "export GITHUB_TOKEN with a token that may write the contents of "+g.repo)
	}
	return store, server, err
}

// openSigned opens a release folder and checks its signature against the client's own policy, so
// that nothing is published that no client accepts.
func openSigned(ctx context.Context, dir release.Dir, signedBy *trust) (*publisher.Folder, sigverify.Signer, error) {
	refuse := func(err error, hint string) (*publisher.Folder, sigverify.Signer, error) {
		return nil, sigverify.Signer{}, failure.Refuse(err, hint)
	}
	folder, err := publisher.OpenFolder(ctx, string(dir))
	if isAs[*publisher.FolderError](err) {
		return refuse(err, hintFor(err))
	}
	if err != nil {
		return nil, sigverify.Signer{}, err
	}
	if !folder.Signed() {
		return refuse(fmt.Errorf("publishing %s: it is not signed", dir), fmt.Sprintf("go run ./ci sign %s", dir))
	}
	verifier, err := signedBy.verifier()
	if err != nil {
		return nil, sigverify.Signer{}, err
	}
	signer, err := release.VerifySignature(verifier, folder)
	if err != nil {
		return refuse(fmt.Errorf("publishing %s: %w", dir, err), hintFor(err))
	}
	return folder, signer, nil
}

func (g *publishGitHubCommand) printPlan(term *terminal, folder *publisher.Folder, plan publisher.Plan) {
	where := "a new draft"
	switch {
	case plan.Release != nil && plan.Release.Draft:
		where = "the draft " + plan.Release.URL
	case plan.Release != nil:
		where = "the public release " + plan.Release.URL
	}
	term.Printf("%s to %s: %s", folder.Release.Release, g.repo, where)
	for _, file := range plan.Keep {
		term.Printf("keep     %-50s %10s", file.Name, measure.Bytes(file.Size))
	}
	for _, asset := range plan.Unfinished {
		term.Printf("delete   %-50s %10s  begun and not whole", asset.Name, measure.Bytes(asset.Size))
	}
	for _, asset := range plan.Replace {
		term.Printf("replace  %-50s %10s  has other contents", asset.Name, measure.Bytes(asset.Size))
	}
	for _, file := range plan.Upload {
		term.Printf("upload   %-50s %10s", file.Name, measure.Bytes(file.Size))
	}
	switch {
	case plan.Done():
		term.Printf("nothing to do")
	case plan.Promote && !g.draft:
		term.Printf("publish  latest: %s", g.latest)
	}
}

// readBack downloads what was published and checks it against the folder's files.
func (g *publishGitHubCommand) readBack(ctx context.Context, term *terminal, server string, folder *publisher.Folder) error {
	cache, err := openCache(g.cache)
	if err != nil {
		return err
	}
	work, remove, err := openWork(ctx, cache)
	if err != nil {
		return err
	}
	defer remove()
	at := publicFlags{repo: g.repo, server: server, tag: folder.Release.Release}
	public := release.Public{Folder: at.folder(), Patience: release.Patience}
	return public.ReadBack(ctx, folder.Files, work, term.Transfers("downloading", "downloaded").Report)
}
