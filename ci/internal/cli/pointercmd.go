package cli

import (
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

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/pointer"
)

// A pointing is one run of pointer.
type pointing struct {
	public published
	as     signing
	dir    string // a release's folder on this machine; empty for the public one
	life   string
	remote string
	out    string
	number int64
	back   bool
}

func pointerCommand(term *terminal) *cobra.Command {
	var p pointing
	cmd := &cobra.Command{
		Use:   "pointer [--release TAG]",
		Short: "Name the current release to clients, or say again that it still is",
		Long: `Name the current release to clients, or say again that it still is.

Signs the release pointer and pushes it to the branch ` + manifests.PointerBranch + ` of a git remote, or
writes it to --out. The release is verified first, as clients will: by what the
public can download, or with --dir by a folder. Without --release it is the one
that the present pointer names; then only its number and its expiry change, and
that has to happen before it expires.

Clients take no pointer with a lower number than they have seen. So the number
grows even where --back goes to an older release.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context(), term) },
	}
	p.public.addressFlags(cmd)
	cmd.Flags().StringVar(&p.dir, "dir", "", "verify the release in this `folder` instead of the public one")
	cmd.Flags().StringVar(&p.life, "expires", "30d", "how `long` clients shall believe it: 30d, 12h")
	cmd.Flags().StringVar(&p.remote, "remote", "origin", "git `remote` to push to: one of this repository's, or an address")
	cmd.Flags().StringVar(&p.out, "out", "", "change this `file` instead of a git branch: …/current/"+manifests.PointerName)
	cmd.Flags().Int64Var(&p.number, "number", 0, "the pointer's `number` (default: one more than the present pointer's); replaces one that cannot be verified")
	cmd.Flags().BoolVar(&p.back, "back", false, "name an older release than the present pointer does")
	p.as.flags(cmd)
	return cmd
}

func (p *pointing) run(ctx context.Context, term *terminal) error {
	life, err := p.check()
	if err != nil {
		return err
	}
	c, err := p.as.open(ctx, term, sigverify.Pointer)
	if err != nil {
		return err
	}
	if err := c.expects(""); err != nil {
		return &refusal{err, "clients believe a pointer that the workflow signed on the default branch: gh workflow run pointer.yml -f release=TAG; --identity and --issuer name another signer, whom every client must then name, too"}
	}
	releases, err := p.releaseVerifier(c)
	if err != nil {
		return err
	}
	place, closePlace, err := p.place(ctx)
	if err != nil {
		return err
	}
	now, before, err := pointer.Publish(ctx, place, pointer.Options{
		Release: p.public.tag, Life: life, Back: p.back, Number: p.number, Verifier: c.verifier,
		Manifest: func(ctx context.Context, tag string) (string, error) {
			at := p.public
			at.tag = tag
			folder := at.folder()
			if p.dir != "" {
				folder = p.dir
			}
			release, err := resolve(ctx, folder, tag, releases)
			if err != nil {
				return "", err
			}
			sum := sha256.Sum256(release.Documents.Manifest)
			term.notef("release   %s at %s, signed by %s", tag, folder, release.Signer.By)
			return hex.EncodeToString(sum[:]), nil
		},
		Sign: func(ctx context.Context, statement []byte) ([]byte, error) {
			return c.made(ctx, term,
				func(s *cosign.Signer) (cosign.Signature, error) { return s.SignStatement(ctx, statement) },
				func([]byte) error { return nil }) // Publish verifies, and more
		},
	})
	if err = errors.Join(err, closePlace()); err != nil {
		return refusedPointer(err)
	}
	if before.Number > 0 {
		term.notef("before    number %d, %s, until %s", before.Number, before.Release, before.Expires.Format(time.RFC3339))
	}
	term.printf("release pointer %d: %s, until %s", now.Number, now.Release, now.Expires.Format(time.RFC3339))
	return nil
}

// check reads the flags.
func (p *pointing) check() (life time.Duration, err error) {
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
		return 0, &usageError{fmt.Errorf("--number %d: numbers begin at 1", p.number), "leave it out, and it is the next one"}
	}
	return lifeOf(p.life)
}

// lifeOf reads a duration in days or in Go's units.
func lifeOf(text string) (time.Duration, error) {
	life, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		life = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || life <= 0 || life > manifests.MaxPointerLife {
		return 0, &usageError{fmt.Errorf("--expires %q: want more than nothing, and at most %d days", text, manifests.MaxPointerLife/(24*time.Hour)), "like --expires 30d"}
	}
	return life, nil
}

// releaseVerifier is that for the release itself, whose signer is another one unless it is a key.
func (p *pointing) releaseVerifier(c *credential) (*sigverify.Verifier, error) {
	if len(c.policy.PublicKey) > 0 {
		return c.verifier, nil
	}
	return p.as.signedBy.verifier()
}

// place is where the pointer goes. Outside of a git repository, one for the time being serves to push from.
func (p *pointing) place(ctx context.Context) (pointer.Place, func() error, error) {
	done := func() error { return nil }
	if p.out != "" {
		return pointer.File(p.out), done, nil
	}
	if exec.CommandContext(ctx, "git", "rev-parse", "--git-dir").Run() == nil {
		return pointer.Branch{Dir: ".", Remote: p.remote}, done, nil
	}
	dir, err := os.MkdirTemp("", "llcuda-pointer-")
	if err != nil {
		return nil, nil, err
	}
	done = func() error { return os.RemoveAll(dir) }
	if out, err := exec.CommandContext(ctx, "git", "init", "--quiet", "--bare", dir).CombinedOutput(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("git init: %w: %s", err, out), done())
	}
	return pointer.Branch{Dir: dir, Remote: p.remote}, done, nil
}

// refusedPointer makes what clients, or the order of things, would refuse a refusal.
func refusedPointer(err error) error {
	if isAs[*pointer.BackError](err) || isAs[*pointer.NumberError](err) || isAs[*pointer.PresentError](err) || isAs[*sigverify.SignatureError](err) {
		return &refusal{err, hintFor(err)}
	}
	if errors.Is(err, pointer.ErrNoPresent) {
		return &usageError{err, "name the release: --release TAG"}
	}
	return err
}
