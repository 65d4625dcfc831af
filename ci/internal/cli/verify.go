package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

// The rules that verify adds to those of the bundler.
const (
	ruleMissing = "missing" // SHA256SUMS or the manifest names a file that is not there
	ruleExtra   = "extra"   // a file that they do not name
	ruleChanged = "changed" // a file with another content than they say
	ruleWheel   = "wheel"   // a wheel that is no good one, or not of this client
	ruleFormat  = "format"  // one of the release's documents cannot be read, or is not written as it must be
)

// finding is one thing wrong with a release.
type finding struct{ name, rule, detail string }

func verifyCommand(term *terminal, backend Backend) *cobra.Command {
	var public published
	var cache string
	var mustBeSigned bool
	cmd := &cobra.Command{
		Use:   "verify DIR | --release TAG",
		Short: "Recompute everything that a release claims",
		Long: `Recompute everything that a release claims: every file against SHA256SUMS,
manifest.json against the archives, every archive's files against its own
metadata, and the files against the audit's rules; if it is signed, the signature,
the provenance and the bills of materials as well; and the wheels of the Python
package, whose client must be the one beside them. It prints all findings, and exits
with 3 if there are any.

With --release it verifies a published release: it downloads everything that the
public can download, without a token, and verifies the signature first.`,
		Example: `  go run ./ci verify dist
  go run ./ci verify dist --signed --public-key farm.pub
  go run ./ci verify --release v1.1.0-runtime    # what is public`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (public.tag == "") {
				return &usageError{errors.New("give either a folder or --release"), "go run ./ci verify dist, or go run ./ci verify --release v1.1.0-runtime"}
			}
			m, err := spec.Default()
			if err != nil {
				return fmt.Errorf("reading the matrix: %w", err)
			}
			if public.tag != "" {
				cache, err := openCache(cache)
				if err != nil {
					return err
				}
				return public.verify(cmd.Context(), term, cache, rulesIn(m, backend.BuildPaths()))
			}
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			verifier, err := public.signedBy.verifier()
			if err != nil {
				return err
			}
			v := verification{dir: dir, rulesFor: rulesIn(m, backend.BuildPaths()), verifier: verifier, mustBeSigned: mustBeSigned}
			if err := v.run(cmd.Context()); err != nil {
				return fmt.Errorf("verifying %s: %w", dir, err)
			}
			return v.report(term)
		},
	}
	public.flags(cmd)
	cacheFlag(cmd, &cache)
	cmd.Flags().BoolVar(&mustBeSigned, "signed", false, "make it a finding that the release is not signed")
	return cmd
}

// rulesFor gives the rules of an SM.
type rulesFor = func(matrix.SM) (bundler.Rules, error)

// rulesIn finds an SM's rules in the matrix.
func rulesIn(m matrix.Matrix, buildPaths []string) rulesFor {
	return func(sm matrix.SM) (bundler.Rules, error) {
		for _, target := range m.Targets {
			if target.SM == sm {
				return bundler.Rules{Target: target, Toolkit: m.Toolkit, Floors: m.Floors, BuildPaths: buildPaths}, nil
			}
		}
		return bundler.Rules{}, fmt.Errorf("the matrix has no %s", sm)
	}
}

// verification is one verify of one folder.
type verification struct {
	dir      releaseDir
	rulesFor rulesFor
	// verifier is for whose signature counts.
	verifier *sigverify.Verifier
	// mustBeSigned makes it a finding that it is not.
	mustBeSigned bool

	mu       sync.Mutex
	findings []finding
	archives int
	release  *manifests.Release // nil where manifest.json cannot be read
	signer   string             // empty where nobody signed whose signature counts
}

func (v *verification) add(name, rule, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.findings = append(v.findings, finding{name, rule, fmt.Sprintf(format, args...)})
}

// run collects the findings. Its error is what kept it from looking.
func (v *verification) run(ctx context.Context) error {
	present, err := v.dir.names()
	if err != nil {
		return err
	}
	sums, err := v.sums()
	if err != nil {
		return err
	}
	if err := v.files(ctx, present, sums); err != nil {
		return err
	}
	if err := v.manifest(sums); err != nil {
		return err
	}
	if err := v.statements(ctx, present); err != nil {
		return err
	}
	if err := v.wheels(ctx, present); err != nil {
		return err
	}
	return v.contents(ctx, present)
}

// wheels holds the Python package to what a wheel must be, and to the client beside it. A release may be without: the
// first ones had none.
func (v *verification) wheels(ctx context.Context, present []string) error {
	names := slices.DeleteFunc(slices.Clone(present), func(name string) bool { return !manifests.IsWheel(name) })
	if len(names) == 0 || v.release == nil {
		return nil
	}
	work, err := os.MkdirTemp("", "llcuda-wheel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	contents, err := v.dir.client(ctx, work, v.release.Release, v.release.SourceDateEpoch)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.add(wheel.Client(), ruleWheel, "what is in the wheels cannot be compared: %v", err)
		return nil
	}
	want := []string{}
	for _, name := range names {
		data, err := os.ReadFile(v.dir.path(name))
		if err != nil {
			return err
		}
		for _, problem := range wheel.Check(name, data, contents) {
			v.add(name, ruleWheel, "%s", problem)
		}
		if version, _, err := wheel.Parse(name); err == nil {
			want = append(want, wheel.Names(version)...)
		}
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(want))) {
		if !slices.Contains(names, name) {
			v.add(name, ruleMissing, "there are %s: a release has both wheels of one version", strings.Join(names, ", "))
		}
	}
	return nil
}

// joined are the findings as one error.
func (v *verification) joined() error {
	var found []error
	for _, f := range v.sorted() {
		found = append(found, fmt.Errorf("%s: %s: %s", v.dir.path(f.name), f.rule, f.detail))
	}
	return errors.Join(found...)
}

// sums reads SHA256SUMS; what is wrong with it is a finding.
func (v *verification) sums() (map[string]string, error) {
	text, err := os.ReadFile(v.dir.path(manifests.SumsName))
	if errors.Is(err, fs.ErrNotExist) {
		v.add(manifests.SumsName, ruleMissing, "the release is not whole: go run ./ci manifest %s writes it", v.dir)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := manifests.DecodeSums(bytes.NewReader(text))
	if err != nil {
		v.add(manifests.SumsName, ruleFormat, "%v", err)
		return nil, nil
	}
	sums := map[string]string{}
	for _, sum := range list {
		sums[sum.Name] = sum.SHA256
	}
	return sums, nil
}

// files compares what is there with SHA256SUMS.
func (v *verification) files(ctx context.Context, present []string, sums map[string]string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for _, name := range present {
		want, named := sums[name]
		switch info, err := os.Lstat(v.dir.path(name)); {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			v.add(name, ruleExtra, "not a regular file: a release holds nothing else")
			continue
		case name == manifests.SumsName || name == manifests.SignatureName:
			continue
		case !named:
			if sums != nil {
				v.add(name, ruleExtra, "%s does not name it", manifests.SumsName)
			}
			continue
		}
		group.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			got, err := sumOf(v.dir.path(name))
			if err == nil && got != want {
				v.add(name, ruleChanged, "sha256 is %s, %s says %s", got, manifests.SumsName, want)
			}
			return err
		})
	}
	for name := range sums {
		if !slices.Contains(present, name) {
			v.add(name, ruleMissing, "%s names it", manifests.SumsName)
		}
	}
	return group.Wait()
}

// manifest reads manifest.json and compares what it covers with SHA256SUMS.
func (v *verification) manifest(sums map[string]string) error {
	text, err := os.ReadFile(v.dir.path(manifests.ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		if sums[manifests.ManifestName] == "" {
			v.add(manifests.ManifestName, ruleMissing, "the release is not whole: go run ./ci manifest %s writes it", v.dir)
		}
		return nil
	}
	if err != nil {
		return err
	}
	release, err := manifests.Decode(bytes.NewReader(text))
	if err != nil {
		v.add(manifests.ManifestName, ruleFormat, "%v", err)
		return nil
	}
	v.release = &release
	canonical, err := manifests.Encode(release)
	if err != nil {
		return err
	}
	if !bytes.Equal(text, canonical) {
		v.add(manifests.ManifestName, ruleFormat, "not in the canonical form: go run ./ci manifest %s writes it so", v.dir)
	}
	for name := range sums {
		if _, named := release.Asset(name); !named && !manifests.IsDocument(name) {
			v.add(name, ruleExtra, "%s does not name it", manifests.ManifestName)
		}
	}
	return nil
}

// contents unpacks every archive and holds it to the manifest, or to itself
// where the manifest does not name it.
func (v *verification) contents(ctx context.Context, present []string) error {
	claimed := map[string]manifests.Artifact{}
	if v.release != nil {
		for _, asset := range v.release.Assets {
			claimed[asset.Name] = asset
			if !slices.Contains(present, asset.Name) && !v.has(asset.Name, ruleMissing) {
				v.add(asset.Name, ruleMissing, "%s names it", manifests.ManifestName)
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for _, name := range present {
		want, named := claimed[name]
		if !manifests.IsArchive(name) {
			continue
		}
		v.archives++
		group.Go(func() error {
			if !named {
				var err error
				if want, err = bundler.ReadArtifact(ctx, v.dir.path(name)); err != nil {
					return v.unreadable(ctx, name, err)
				}
			}
			found, err := bundler.VerifyArchive(ctx, v.dir.path(name), want, v.rulesFor)
			if err != nil {
				return v.unreadable(ctx, name, err)
			}
			for _, f := range found {
				detail := f.Detail
				if f.Path != "" {
					detail = f.Path + ": " + detail
				}
				v.add(name, f.Rule, "%s", detail)
			}
			return nil
		})
	}
	return group.Wait()
}

func (v *verification) has(name, rule string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.findings, func(f finding) bool { return f.name == name && f.rule == rule })
}

// unreadable makes an archive that cannot be read a finding, unless the reading
// itself was ended.
func (v *verification) unreadable(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.add(name, bundler.RuleArchive, "%v", err)
	return nil
}

// sorted are the findings in the order to print them in.
func (v *verification) sorted() []finding {
	slices.SortFunc(v.findings, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.rule, b.rule), cmp.Compare(a.detail, b.detail))
	})
	return v.findings
}

// report prints what was found.
func (v *verification) report(term *terminal) error {
	for _, f := range v.sorted() {
		term.printf("%s: %s: %s", v.dir.path(f.name), f.rule, f.detail)
	}
	signature := "not signed"
	if v.signer != "" {
		signature = "signed by " + v.signer
	}
	if n := len(v.findings); n > 0 {
		found := "1 finding"
		if n > 1 {
			found = fmt.Sprintf("%d findings", n)
		}
		return &refusal{fmt.Errorf("verifying %s: %s", v.dir, found), "build the release again, or take it from where it was built"}
	}
	term.printf("%s: release %s, llama.cpp %s: %d archives and %s agree; %s", v.dir, v.release.Release, v.release.LlamaCPP.Version,
		v.archives, manifests.ManifestName, signature)
	return nil
}
