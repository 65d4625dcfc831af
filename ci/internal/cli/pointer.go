package cli

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/console"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/pointer"
)

// A pointerCommand is one run of pointer.
type pointerCommand struct {
	public publicFlags
	as     signing
	dir    string // a release's folder on this machine; empty for the public one
	life   string
	remote string
	out    string
	page   string
	number int64
	back   bool

	withdraw manifests.Withdrawal
	restore  string
}

func newPointerCommand(term *terminal) *cobra.Command {
	var p pointerCommand
	cmd := &cobra.Command{
		Use:   "pointer [--release TAG]",
		Short: "Tell clients which release is current, or renew the pointer that does",
		Long: `Tell clients which release is current, or renew the pointer that does.

Signs the release pointer and pushes it to the branch ` + manifests.PointerBranch + ` of a git remote, or
writes it to --out. It first verifies the release as clients do: the one that the
public can download, or with --dir the one in a folder. Without --release it renews
the present pointer: only the number and the expiry change. Do that before the
pointer expires.

Clients refuse a pointer with a lower number than one they have seen. So the number
grows even if --back names an older release.

--withdraw takes a release back: users who name it by its tag, or have it installed,
are told the reason. Later pointers keep that, until --restore. You cannot withdraw
the current release without naming the one to use instead in the same command.

A branch only gets a release whose workflow ran for a commit of the remote's branch
` + defaultBranch + `: a tag on any other commit does not have the maintainers' approval.`,
		Example: `  go run ./ci pointer --release v1.1.0-runtime
  go run ./ci pointer    # renews the present one
  go run ./ci pointer --withdraw v1.1.0-runtime --reason "crashes on SM 75" --release v1.0.0-runtime`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context(), term) },
	}
	p.public.addressFlags(cmd)
	cmd.Flags().StringVar(&p.dir, "dir", "", "verify the release in this `folder` instead of the public one")
	cmd.Flags().StringVar(&p.life, "expires", "30d", "how `long` the pointer is valid: 30d, 12h")
	cmd.Flags().StringVar(&p.remote, "remote", "origin", "git `remote` to push to: a name or a URL")
	cmd.Flags().StringVar(&p.out, "out", "", "write this `file` instead of a git branch: …/current/"+manifests.PointerName)
	cmd.Flags().StringVar(&p.page, "page", "", "put this `file`, which ci site wrote, beside the pointer on the branch (default: the page that is there stays)")
	cmd.Flags().Int64Var(&p.number, "number", 0, "the pointer's `number` (default: one more than the present pointer's); replaces one that cannot be verified")
	cmd.Flags().BoolVar(&p.back, "back", false, "allow --release to be older than the present pointer's release")
	cmd.Flags().StringVar(&p.withdraw.Release, "withdraw", "", "withdraw the release with this `tag`, for the given --reason")
	cmd.Flags().StringVar(&p.withdraw.Reason, "reason", "", "why the release is withdrawn, in one `line` for its users")
	cmd.Flags().StringVar(&p.restore, "restore", "", "undo --withdraw for the release with this `tag`")
	p.as.flags(cmd)
	return cmd
}

func (p *pointerCommand) run(ctx context.Context, term *terminal) error {
	life, err := p.check()
	if err != nil {
		return err
	}
	page, err := p.readPage()
	if err != nil {
		return err
	}
	c, err := p.as.open(ctx, term, sigverify.Pointer)
	if err != nil {
		return err
	}
	if err := c.Expects(""); err != nil {
		return failure.Refuse(err, "clients accept a pointer that the workflow signed on the default branch: gh workflow run pointer.yml -f release=TAG; to sign as another signer, give --identity and --issuer, here and to every client")
	}
	releases, err := p.releaseVerifier(c)
	if err != nil {
		return err
	}
	place, closePlace, err := p.place(ctx, page)
	if err != nil {
		return err
	}
	now, before, err := pointer.Publish(ctx, place, pointer.Options{
		Release: p.public.tag, Life: life, Back: p.back, Number: p.number, Withdraw: p.withdraw, Restore: p.restore, Verifier: c.Verifier,
		Manifest: func(ctx context.Context, tag string) (string, error) {
			at := p.public
			at.tag = tag
			folder := at.folder()
			if p.dir != "" {
				folder = p.dir
			}
			found, err := release.Resolve(ctx, folder, tag, releases)
			if err != nil {
				return "", err
			}
			if err := p.onDefaultBranch(ctx, place, tag, found.Signer.Commit); err != nil {
				return "", err
			}
			sum := sha256.Sum256(found.Documents.Manifest)
			term.Notef("release   %s at %s, signed by %s", tag, folder, found.Signer.By)
			return hex.EncodeToString(sum[:]), nil
		},
		Sign: func(ctx context.Context, statement []byte) ([]byte, error) {
			return c.Sign(ctx,
				func(s *cosign.Signer) (cosign.Signature, error) { return s.SignStatement(ctx, statement) },
				func([]byte) error { return nil }) // Publish verifies, and more
		},
	})
	if err = errors.Join(err, closePlace()); err != nil {
		return refusedPointer(err)
	}
	if before.Number > 0 {
		term.Notef("before    number %d, %s, until %s", before.Number, before.Release, before.Expires.Format(time.RFC3339))
	}
	for _, w := range now.Withdrawn {
		term.Notef("withdrawn %s: %s", w.Release, w.Reason)
	}
	term.Printf("release pointer %d: %s, until %s", now.Number, now.Release, now.Expires.Format(time.RFC3339))
	return nil
}

// check reads the flags.
func (p *pointerCommand) check() (life time.Duration, err error) {
	at := p.public
	if at.tag == "" {
		at.tag = "v1" // any: it is the present pointer that says which
	}
	if err := at.check(); err != nil {
		return 0, err
	}
	if p.dir != "" {
		if _, err := existingDir(p.dir); err != nil {
			return 0, err
		}
	}
	if p.number < 0 {
		return 0, console.Usage(fmt.Errorf("--number %d: numbers begin at 1", p.number), "leave it out, and it is the next one")
	}
	if err := p.checkWithdrawal(); err != nil {
		return 0, err
	}
	return lifeOf(p.life)
}

// readPage reads the page to put beside the pointer; nil if none was given.
func (p *pointerCommand) readPage() ([]byte, error) {
	switch {
	case p.page == "":
		return nil, nil
	case p.out != "":
		return nil, console.Usage(errors.New("--page is for a branch, and --out writes a file"), "copy the page to where the web server has it")
	}
	page, err := os.ReadFile(p.page)
	if err != nil || len(page) == 0 {
		return nil, console.Usage(cmp.Or(err, fmt.Errorf("--page %s is empty", p.page)), "go run ./ci site writes it")
	}
	return page, nil
}

func (p *pointerCommand) checkWithdrawal() error {
	const example = `like --withdraw v1.1.0-runtime --reason "wrong results on Pascal"`
	for flag, tag := range map[string]string{"--withdraw": p.withdraw.Release, "--restore": p.restore} {
		if tag != "" && !releaseName.MatchString(tag) {
			return console.Usage(fmt.Errorf("%s %q: letters, digits and ._- only", flag, tag), "give the release's tag")
		}
	}
	switch {
	case (p.withdraw.Release == "") != (strings.TrimSpace(p.withdraw.Reason) == ""):
		return console.Usage(errors.New("--withdraw and --reason belong together"), example)
	case p.withdraw.Release != "" && p.withdraw.Release == p.restore:
		return console.Usage(fmt.Errorf("--withdraw and --restore name the same release, %s", p.restore), "give one of them")
	}
	return nil
}

// lifeOf parses a duration in days or in Go's units.
func lifeOf(text string) (time.Duration, error) {
	life, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		life = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || life <= 0 || life > manifests.MaxPointerLife {
		return 0, console.Usage(fmt.Errorf("--expires %q: want more than nothing, and at most %d days", text, manifests.MaxPointerLife/(24*time.Hour)), "like --expires 30d")
	}
	return life, nil
}

// releaseVerifier is that for the release itself, whose signer is another one unless it is a key.
func (p *pointerCommand) releaseVerifier(c *release.Credential) (*sigverify.Verifier, error) {
	if len(c.Policy.PublicKey) > 0 {
		return c.Verifier, nil
	}
	return p.as.signedBy.verifier()
}

// place is where the pointer goes. Outside of a git repository, one for the time being serves to push from.
func (p *pointerCommand) place(ctx context.Context, page []byte) (pointer.Place, func() error, error) {
	done := func() error { return nil }
	if p.out != "" {
		return pointer.File(p.out), done, nil
	}
	if exec.CommandContext(ctx, "git", "rev-parse", "--git-dir").Run() == nil {
		return pointer.Branch{Dir: ".", Remote: p.remote, Page: page}, done, nil
	}
	dir, err := os.MkdirTemp("", "llcuda-pointer-")
	if err != nil {
		return nil, nil, err
	}
	done = func() error { return os.RemoveAll(dir) }
	if out, err := exec.CommandContext(ctx, "git", "init", "--quiet", "--bare", dir).CombinedOutput(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("git init: %w: %s", err, out), done())
	}
	return pointer.Branch{Dir: dir, Remote: p.remote, Page: page}, done, nil
}

// defaultBranch is the branch that the pointer's own workflow runs on.
var defaultBranch = manifests.PointerWorkflow[strings.LastIndex(manifests.PointerWorkflow, "/")+1:]

// A strayError reports a release whose commit is not on the default branch: anyone who may push a
// tag could have made it, without review.
type strayError struct{ tag, commit string }

func (e *strayError) Error() string {
	return fmt.Sprintf("release %s was made from commit %.12s, which is not on the branch %s", e.tag, e.commit, defaultBranch)
}

// Hint suggests a way out.
func (e *strayError) Hint() string {
	return "look who pushed the tag; merge the commit into " + defaultBranch + ", or publish under a new tag from there"
}

// onDefaultBranch refuses a release that a workflow made from a commit outside the default branch of
// the repository the pointer goes to. A signature by a key names no commit, and a file has no
// branches: in those cases the key's holder is responsible.
func (p *pointerCommand) onDefaultBranch(ctx context.Context, place pointer.Place, tag, commit string) error {
	branch, ok := place.(pointer.Branch)
	if !ok || commit == "" {
		return nil
	}
	branch.Name = defaultBranch
	switch has, err := branch.Has(ctx, commit); {
	case err != nil:
		return fmt.Errorf("looking for the commit of %s on the branch %s: %w", tag, defaultBranch, err)
	case !has:
		return &strayError{tag, commit}
	}
	return nil
}

// refusedPointer makes what clients, or the order of things, would refuse a refusal.
func refusedPointer(err error) error {
	if isAs[*pointer.BackError](err) || isAs[*pointer.NumberError](err) || isAs[*pointer.PresentError](err) || isAs[*pointer.WithdrawError](err) || isAs[*strayError](err) || isAs[*sigverify.SignatureError](err) {
		return failure.Refuse(err, hintFor(err))
	}
	if errors.Is(err, pointer.ErrNoPresent) {
		return console.Usage(err, "name the release: --release TAG")
	}
	return err
}
