package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// RulesFor returns the bundler's rules for a row of the matrix.
type RulesFor func(matrix.Row) (bundler.Rules, error)

// Checks are what a release is verified against.
type Checks struct {
	RulesFor RulesFor
	// Verifier decides which signatures are accepted.
	Verifier *sigverify.Verifier
	// MustBeSigned makes it a finding that the release is not signed.
	MustBeSigned bool
}

// A Report is what verifying a folder found.
type Report struct {
	// Release is manifest.json; empty if that cannot be read.
	Release manifests.Release
	// Findings lists everything that is wrong, ascending.
	Findings []publisher.Finding
	// Archives is how many there are.
	Archives int
	// Signer describes who signed; empty without an accepted signature.
	Signer string
}

// Verify recomputes everything that the release claims. Its error is what kept it from looking.
func (d Dir) Verify(ctx context.Context, checks Checks) (Report, error) {
	v, err := d.inspect(ctx, checks)
	if err != nil {
		return Report{}, err
	}
	metadata, err := v.contents(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := v.irregular(); err != nil {
		return Report{}, err
	}
	if err := v.benchmark(); err != nil {
		return Report{}, err
	}
	if err := v.attestations(metadata); err != nil {
		return Report{}, err
	}
	v.findings = append(v.findings, unserved(v.folder.Release, v.libraries)...)
	if v.read() {
		wheels, err := d.CheckWheels(ctx, v.folder.Release.Release, v.folder.Release.SourceDateEpoch)
		if err != nil {
			return Report{}, err
		}
		v.findings = append(v.findings, wheels...)
	}
	v.sort()
	return Report{Release: v.folder.Release, Findings: v.findings, Archives: v.archives, Signer: v.signer}, nil
}

// A verification is one verification under way.
type verification struct {
	Checks
	dir     Dir
	present []string
	folder  publisher.Folder

	mu       sync.Mutex
	findings []publisher.Finding
	archives int
	signer   string
	// libraries are those of the archives that the manifest names, by these names.
	libraries map[string]*bundler.Libraries
}

// inspect begins a verification with what needs no look into the files: SHA256SUMS and
// manifest.json.
func (d Dir) inspect(ctx context.Context, checks Checks) (*verification, error) {
	present, err := d.Names()
	if err != nil {
		return nil, err
	}
	i, err := publisher.InspectFolder(ctx, string(d))
	if err != nil {
		return nil, err
	}
	return &verification{Checks: checks, dir: d, present: present, folder: i.Folder, libraries: map[string]*bundler.Libraries{}, findings: slices.Concat(i.Sums, i.Manifest)}, nil
}

// read reports whether manifest.json could be read. Why not is a finding already.
func (v *verification) read() bool { return v.folder.Release.Release != "" }

func (v *verification) has(name string) bool { return slices.Contains(v.present, name) }

func (v *verification) add(name, rule, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.findings = append(v.findings, publisher.Finding{Name: name, Rule: rule, Detail: fmt.Sprintf(format, args...)})
}

// irregular finds what is not a file that can be published: links, folders, and hidden files.
func (v *verification) irregular() error {
	for _, name := range v.present {
		switch info, err := os.Lstat(v.dir.Path(name)); {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			v.add(name, publisher.RuleExtra, "not a regular file: a release holds nothing else")
		case strings.HasPrefix(name, "."):
			v.add(name, publisher.RuleExtra, "%s does not name it", manifests.SumsName)
		}
	}
	return nil
}

// contents unpacks every archive and compares it with the manifest, or with itself where the
// manifest does not name it. It returns the bundles' metadata by their names: what cannot be read
// is a finding.
func (v *verification) contents(ctx context.Context) (map[string]manifests.Metadata, error) {
	metadata := map[string]manifests.Metadata{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for _, name := range v.present {
		if !manifests.IsArchive(name) {
			continue
		}
		v.archives++
		want, named := v.folder.Release.Asset(name)
		group.Go(func() error {
			if !named {
				var err error
				if want, err = bundler.ReadArtifact(ctx, v.dir.Path(name)); err != nil {
					return v.unreadable(ctx, name, err)
				}
			}
			verified, err := bundler.VerifyArchive(ctx, v.dir.Path(name), want, v.RulesFor)
			if err != nil {
				return v.unreadable(ctx, name, err)
			}
			for _, f := range verified.Findings {
				detail := f.Detail
				if f.Path != "" {
					detail = f.Path + ": " + detail
				}
				v.add(name, f.Rule, "%s", detail)
			}
			if named {
				v.mu.Lock()
				defer v.mu.Unlock()
				v.libraries[name] = verified.Libraries
				if verified.Metadata != nil {
					metadata[want.Stem()] = *verified.Metadata
				}
			}
			return nil
		})
	}
	return metadata, group.Wait()
}

// unreadable makes an archive that cannot be read a finding, unless the reading itself was ended.
func (v *verification) unreadable(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	v.add(name, bundler.RuleArchive, "%v", err)
	return nil
}

func (v *verification) sort() {
	slices.SortFunc(v.findings, func(a, b publisher.Finding) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Detail, b.Detail))
	})
}

// Joined returns findings as one error, a line for each; nil if there are none.
func (d Dir) Joined(findings []publisher.Finding) error {
	var lines []error
	for _, f := range findings {
		lines = append(lines, fmt.Errorf("%s: %s: %s", d.Path(f.Name), f.Rule, f.Detail))
	}
	return errors.Join(lines...)
}
