package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/provenance"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
)

// SignOptions are what a release is signed with.
type SignOptions struct {
	*Credential
	// Pin is the llama.cpp of the matrix, which says where that commit comes from: archives know
	// the commit alone.
	Pin matrix.LlamaPin
	// Run is what built the archives.
	Run provenance.Run
	// Known spares the reading of archives that this program packed or read before.
	Known *Ledger
	// Removed is called with each file that was removed because it no longer belongs to the folder.
	Removed func(name string)
}

// Signed is what Sign did.
type Signed struct {
	Release string
	Assets  int
	By      string
	// Already says that the release was signed before, and nothing was done.
	Already bool
}

// Sign writes the bills of materials, the provenance, a new description of the folder, and the
// signature over it. A folder that has all of that, and right, stays as it is.
func (d Dir) Sign(ctx context.Context, opts SignOptions) (Signed, error) {
	unlock, err := d.lock()
	if err != nil {
		return Signed{}, err
	}
	defer unlock()
	if opts.Removed == nil {
		opts.Removed = func(string) {}
	}
	s := signing{dir: d, SignOptions: opts}
	if err := s.preflight(ctx); err != nil {
		return Signed{}, err
	}
	tag := s.release.Release
	if err := s.Expects(tag); err != nil {
		return Signed{}, err
	}
	if signer, err := s.signed(ctx); err != nil || signer != "" {
		return Signed{Release: tag, By: signer, Already: true}, err
	}
	files, err := s.bills(ctx)
	if err != nil {
		return Signed{}, err
	}
	if files[manifests.ProvenanceName], err = s.statement(ctx); err != nil {
		return Signed{}, err
	}
	// Up to here nothing was written. What follows is the same whenever it is done again.
	for _, bill := range s.release.Of(manifests.KindSBOM) {
		if _, mine := files[bill.Name]; !mine {
			if err := os.Remove(d.Path(bill.Name)); err != nil {
				return Signed{}, err
			}
			s.Removed(bill.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := d.writeChanged(name, files[name]); err != nil {
			return Signed{}, err
		}
	}
	says, err := d.writeDescription(slices.Concat(s.release.Of(manifests.KindBundle), s.release.Of(manifests.KindCUDART)))
	if says.SignatureRemoved {
		s.Removed(manifests.SignatureName)
	}
	if err != nil {
		return Signed{}, err
	}
	var signer sigverify.Signer
	bundle, err := s.Credential.Sign(ctx,
		func(c *cosign.Signer) (cosign.Signature, error) { return c.SignFile(ctx, says.Sums) },
		func(bundle []byte) (err error) {
			signer, err = VerifySignature(s.Verifier, &publisher.Folder{Release: says.Release, Sums: says.Sums, Signature: bundle})
			return err
		})
	if err != nil {
		return Signed{}, fmt.Errorf("%s: %w", d.Path(manifests.SignatureName), err)
	}
	if err := WriteFile(d.Path(manifests.SignatureName), bundle); err != nil {
		return Signed{}, err
	}
	return Signed{Release: tag, Assets: len(says.Release.Assets), By: signer.By()}, nil
}

// A signing is one Sign of one folder.
type signing struct {
	dir Dir
	SignOptions

	release manifests.Release             // what the folder holds before it is signed
	bundles map[string]manifests.Metadata // by name
}

// preflight makes sure that what is to be signed is what was built: every archive, and the client,
// as SHA256SUMS has it. A client that is not named there yet joins. Documents that Sign makes
// itself may be half-made.
func (s *signing) preflight(ctx context.Context) error {
	if err := s.dir.removePartials(); err != nil {
		return err
	}
	names, _, err := s.dir.Contents()
	if err != nil {
		return err
	}
	found, err := publisher.InspectFolder(ctx, string(s.dir))
	if err != nil {
		return err
	}
	wrong := slices.DeleteFunc(found.Sums, func(f publisher.Finding) bool {
		joins := f.Rule == publisher.RuleExtra && !manifests.IsArchive(f.Name)
		return f.Name != manifests.SumsName && (joins || !isSigned(f.Name))
	})
	if len(wrong) > 0 {
		return failure.Refuse(fmt.Errorf("signing %s: it is not what %s says:\n%w", s.dir, manifests.SumsName, s.dir.Joined(wrong)),
			fmt.Sprintf("go run ./ci verify %s shows more; if the files are right, go run ./ci manifest %s describes them again", s.dir, s.dir))
	}
	archives, err := s.dir.archives(ctx, names, s.Known)
	if err == nil && slices.ContainsFunc(archives, func(a manifests.Artifact) bool { return !found.Intact(a) }) {
		archives, err = s.dir.archives(ctx, names, nil) // the ledger was wrong about one
	}
	if err != nil {
		return err
	}
	says, err := s.dir.describe(archives)
	if err != nil {
		return err
	}
	s.release = says.Release
	wheels, err := s.dir.CheckWheels(ctx, s.release.Release, s.release.SourceDateEpoch)
	if err == nil && len(wheels) > 0 {
		err = failure.Refuse(fmt.Errorf("signing %s:\n%w", s.dir, s.dir.Joined(wheels)), fmt.Sprintf("go run ./ci wheel %s builds the wheels again", s.dir))
	}
	return err
}

// signed is who signed the folder, if all that Sign makes is there and right.
func (s *signing) signed(ctx context.Context) (string, error) {
	if !exists(s.dir.Path(manifests.SignatureName)) {
		return "", nil
	}
	v, err := s.dir.inspect(ctx, Checks{Verifier: s.Verifier, MustBeSigned: true})
	if err != nil {
		return "", err
	}
	metadata, err := v.readMetadata(ctx)
	if err == nil {
		err = v.irregular()
	}
	if err != nil {
		return "", err
	}
	if err := v.attestations(metadata); err != nil || len(v.findings) > 0 {
		return "", err
	}
	return v.signer, nil
}

// bills makes the bills of materials, by their names.
func (s *signing) bills(ctx context.Context) (map[string][]byte, error) {
	bundles := s.release.Bundles()
	metadata := make([]manifests.Metadata, len(bundles))
	texts := make([][]byte, len(bundles))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for i, bundle := range bundles {
		group.Go(func() (err error) {
			metadata[i], texts[i], err = s.bill(groupCtx, bundle)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	bills := map[string][]byte{}
	s.bundles = map[string]manifests.Metadata{}
	for i, bundle := range bundles {
		bills[manifests.SBOMName(bundle.Name)], s.bundles[bundle.Stem()] = texts[i], metadata[i]
	}
	for _, client := range s.release.Of(manifests.KindClient) {
		if client.Name == manifests.InstallerName {
			continue
		}
		text, err := s.dir.clientBill(client, s.release.Release, time.Unix(s.release.SourceDateEpoch, 0))
		if err != nil {
			return nil, err
		}
		bills[manifests.SBOMName(client.Name)] = text
	}
	return bills, nil
}

// bill unpacks a bundle and lists it.
func (s *signing) bill(ctx context.Context, bundle manifests.Artifact) (manifests.Metadata, []byte, error) {
	fail := func(err error) (manifests.Metadata, []byte, error) { return manifests.Metadata{}, nil, err }
	dir, remove, err := bundler.Scratch(ctx, "", "sbom")
	if err != nil {
		return fail(err)
	}
	defer remove()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	meta, err := bundler.Unpack(ctx, s.dir.Path(bundle.Name), root)
	if err != nil {
		return fail(err)
	}
	runtime, _ := s.release.Runtime(bundle) // Check has seen to it
	text, err := sbom.Bundle(sbom.Contents{FS: root.FS(), Metadata: meta, Archives: s.release.Formats(bundle),
		Runtime: s.release.Formats(runtime), Repository: s.repository()})
	return meta, text, err
}

// repository is where llama.cpp comes from, if it is the one that the matrix pins.
func (s *signing) repository() string {
	if s.release.LlamaCPP.Commit != s.Pin.Commit {
		return ""
	}
	return s.Pin.Repository
}

// statement is the signed provenance: that in the folder where it holds, else a new one.
func (s *signing) statement(ctx context.Context) ([]byte, error) {
	facts := provenance.Facts{Bundles: inOrder(s.bundles), Repository: s.repository()}
	for _, asset := range s.release.Assets {
		if isSigned(asset.Name) {
			facts.Files = append(facts.Files, asset)
		}
	}
	holds := func(bundle []byte) error {
		problems, err := checkProvenance(s.Verifier, bundle, s.release.Release, facts)
		if err == nil && len(problems) > 0 {
			err = errors.New(strings.Join(problems, "; "))
		}
		return err
	}
	old, err := os.ReadFile(s.dir.Path(manifests.ProvenanceName))
	if err == nil && holds(old) == nil {
		return old, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	text, err := provenance.Statement(facts, s.Run)
	if err != nil {
		return nil, err
	}
	bundle, err := s.Credential.Sign(ctx, func(c *cosign.Signer) (cosign.Signature, error) { return c.SignStatement(ctx, text) }, holds)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.dir.Path(manifests.ProvenanceName), err)
	}
	return bundle, nil
}

// writeChanged leaves a file alone that has this content already.
func (d Dir) writeChanged(name string, data []byte) error {
	if old, err := os.ReadFile(d.Path(name)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return WriteFile(d.Path(name), data)
}
