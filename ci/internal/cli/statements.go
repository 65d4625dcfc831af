package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher/provenance"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
)

// The rules for what is said of the files.
const (
	ruleSignature  = "signature"  // it does not count, by the policy
	ruleProvenance = "provenance" // it says something else than the bundles
	ruleSBOM       = "sbom"       // it is no bill of materials, or says something else than the archive
)

// statements verifies what is said of the release: the signature, the provenance, the bills of materials. A release that
// is signed has all of them.
func (v *verification) statements(ctx context.Context, present []string) error {
	if v.release == nil {
		return nil // why is a finding already
	}
	if err := v.signature(present); err != nil {
		return err
	}
	metadata, err := v.metadata(ctx, present)
	if err != nil {
		return err
	}
	if err := v.provenance(present, metadata); err != nil {
		return err
	}
	return v.bills(present, metadata)
}

// whole says whether the release must have all that sign makes.
func (v *verification) whole(present []string) bool {
	return v.mustBeSigned || slices.Contains(present, manifests.SignatureName)
}

func (v *verification) signature(present []string) error {
	if !slices.Contains(present, manifests.SignatureName) {
		if v.mustBeSigned {
			v.add(manifests.SignatureName, ruleMissing, "the release is not signed: go run ./ci sign %s signs it", v.dir)
		}
		return nil
	}
	sums, err := os.ReadFile(v.dir.path(manifests.SumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	signed, err := os.ReadFile(v.dir.path(manifests.SignatureName))
	if err != nil {
		return err
	}
	signer, err := v.verifier.Verify(sums, signed)
	if err == nil {
		err = sameTag(signer, v.release.Release)
	}
	if err != nil {
		v.addRefused(manifests.SignatureName, err)
		return nil
	}
	v.signer = signer.By()
	return nil
}

// addRefused is a signature that does not count, and what that may mean.
func (v *verification) addRefused(name string, err error) {
	if hint := hintFor(err); hint != "" {
		v.add(name, ruleSignature, "%v: %s", err, hint)
		return
	}
	v.add(name, ruleSignature, "%v", err)
}

// metadata reads that of each bundle, by the bundle's name. What cannot be read is a finding of contents.
func (v *verification) metadata(ctx context.Context, present []string) (map[string]manifests.Metadata, error) {
	var assets []manifests.Artifact
	for _, bundle := range v.release.Bundles() {
		if slices.Contains(present, bundle.Name) {
			assets = append(assets, bundle)
		}
	}
	read := make([]manifests.Metadata, len(assets))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for i, asset := range assets {
		group.Go(func() error {
			var err error
			if read[i], err = bundler.ReadMetadata(ctx, v.dir.path(asset.Name)); err != nil {
				read[i] = manifests.Metadata{}
				return ctx.Err()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	found := map[string]manifests.Metadata{}
	for i, asset := range assets {
		if read[i].Name != "" {
			found[asset.Stem()] = read[i]
		}
	}
	return found, nil
}

func (v *verification) provenance(present []string, metadata map[string]manifests.Metadata) error {
	if !slices.Contains(present, manifests.ProvenanceName) {
		if v.whole(present) {
			v.add(manifests.ProvenanceName, ruleMissing, "a signed release has one")
		}
		return nil
	}
	text, err := os.ReadFile(v.dir.path(manifests.ProvenanceName))
	if err != nil {
		return err
	}
	statement, signer, err := v.verifier.VerifyStatement(text)
	if err == nil {
		err = sameTag(signer, v.release.Release)
	}
	if err != nil {
		v.addRefused(manifests.ProvenanceName, err)
		return nil
	}
	facts := provenance.Facts{}
	for _, asset := range v.release.Assets {
		if isSigned(asset.Name) {
			facts.Files = append(facts.Files, asset)
		}
	}
	for _, name := range sortedKeys(metadata) {
		facts.Bundles = append(facts.Bundles, metadata[name])
	}
	for _, problem := range provenance.Check(statement.Payload, facts, signer.Identity) {
		v.add(manifests.ProvenanceName, ruleProvenance, "%s", problem)
	}
	return nil
}

// bills holds each bill of materials to its archives.
func (v *verification) bills(present []string, metadata map[string]manifests.Metadata) error {
	archives := map[string][]manifests.Artifact{} // by the name of their bill
	for _, asset := range v.release.Assets {
		if asset.Kind == manifests.KindBundle || asset.Kind == manifests.KindClient && asset.Name != manifests.InstallerName {
			name := manifests.SBOMName(asset.Name)
			archives[name] = append(archives[name], asset)
		}
	}
	for _, name := range present {
		if _, known := archives[name]; manifests.KindOf(name) == manifests.KindSBOM && !known {
			v.add(name, ruleExtra, "there is no archive that it is of")
		}
	}
	for _, name := range sortedKeys(archives) {
		if !slices.Contains(present, name) {
			if v.whole(present) {
				v.add(name, ruleMissing, "a signed release has one for each bundle and each client")
			}
			continue
		}
		text, err := os.ReadFile(v.dir.path(name))
		if err != nil {
			return err
		}
		stem := manifests.Stem(name)
		for _, problem := range sbom.Check(text, sbom.Facts{Name: stem, Archives: archives[name], Files: metadata[stem].Files}) {
			v.add(name, ruleSBOM, "%s", problem)
		}
	}
	return nil
}
