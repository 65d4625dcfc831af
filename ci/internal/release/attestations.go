package release

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/provenance"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
)

// The rules for what is said of the files.
const (
	ruleSignature  = "signature"  // the policy does not accept it
	ruleProvenance = "provenance" // it does not agree with the bundles
	ruleSBOM       = "sbom"       // it is not a bill of materials, or does not agree with the archive
)

// attestations verifies what is said of the release: the signature, the provenance, the bills of
// materials. A release that is signed has all of them.
func (v *verification) attestations(metadata map[string]manifests.Metadata) error {
	if !v.read() {
		return nil
	}
	v.signature()
	if err := v.provenance(metadata); err != nil {
		return err
	}
	return v.bills(metadata)
}

// complete reports whether the release must have everything that signing makes.
func (v *verification) complete() bool { return v.MustBeSigned || v.has(manifests.SignatureName) }

func (v *verification) signature() {
	switch {
	case !v.folder.Signed() && v.MustBeSigned:
		v.add(manifests.SignatureName, publisher.RuleMissing, "the release is not signed: go run ./ci sign %s signs it", v.dir)
	case v.folder.Signed() && v.folder.Sums != nil:
		signer, err := VerifySignature(v.Verifier, &v.folder)
		if err != nil {
			v.addRefused(manifests.SignatureName, err)
			return
		}
		v.signer = signer.By()
	}
}

// VerifySignature verifies the signature over a folder's SHA256SUMS, and that it was made for this
// release.
func VerifySignature(verifier *sigverify.Verifier, folder *publisher.Folder) (sigverify.Signer, error) {
	signer, err := verifier.Verify(folder.Sums, folder.Signature)
	if err == nil {
		err = sameTag(signer, folder.Release.Release)
	}
	return signer, err
}

// sameTag refuses a signature that a workflow made for another tag than the release's.
func sameTag(signer sigverify.Signer, release string) error {
	if signer.Ref == "" || signer.Ref == sigverify.Tags+release {
		return nil
	}
	return fmt.Errorf("it was signed for %s, and the release is %s", signer.Ref, release)
}

// addRefused adds a signature that is not accepted, and what that may mean.
func (v *verification) addRefused(name string, err error) {
	if hint := hintOf(err); hint != "" {
		v.add(name, ruleSignature, "%v: %s", err, hint)
		return
	}
	v.add(name, ruleSignature, "%v", err)
}

// readMetadata reads the metadata of each bundle, by the bundle's name. What cannot be read is left
// out.
func (v *verification) readMetadata(ctx context.Context) (map[string]manifests.Metadata, error) {
	found := map[string]manifests.Metadata{}
	for _, bundle := range v.folder.Release.Bundles() {
		meta, err := bundler.ReadMetadata(ctx, v.dir.Path(bundle.Name))
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			found[bundle.Stem()] = meta
		}
	}
	return found, nil
}

func (v *verification) provenance(metadata map[string]manifests.Metadata) error {
	if !v.has(manifests.ProvenanceName) {
		if v.complete() {
			v.add(manifests.ProvenanceName, publisher.RuleMissing, "a signed release has one")
		}
		return nil
	}
	text, err := os.ReadFile(v.dir.Path(manifests.ProvenanceName))
	if err != nil {
		return err
	}
	facts := provenance.Facts{Bundles: inOrder(metadata)}
	for _, asset := range v.folder.Release.Assets {
		if isSigned(asset.Name) {
			facts.Files = append(facts.Files, asset)
		}
	}
	problems, err := checkProvenance(v.Verifier, text, v.folder.Release.Release, facts)
	if err != nil {
		v.addRefused(manifests.ProvenanceName, err)
	}
	for _, problem := range problems {
		v.add(manifests.ProvenanceName, ruleProvenance, "%s", problem)
	}
	return nil
}

// checkProvenance verifies a signed provenance, and says in what it does not agree with the facts.
func checkProvenance(verifier *sigverify.Verifier, text []byte, release string, facts provenance.Facts) (problems []string, err error) {
	statement, signer, err := verifier.VerifyStatement(text)
	if err == nil {
		err = sameTag(signer, release)
	}
	if err != nil {
		return nil, err
	}
	return provenance.Check(statement.Payload, facts, signer.Identity), nil
}

// inOrder are the metadata of bundles, ascending by name.
func inOrder(metadata map[string]manifests.Metadata) []manifests.Metadata {
	var list []manifests.Metadata
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		list = append(list, metadata[name])
	}
	return list
}

// isSigned reports whether a file is made before the signing: what is attested, as opposed to what
// attests.
func isSigned(name string) bool {
	return manifests.IsArchive(name) || manifests.KindOf(name) == manifests.KindClient
}

// bills compares each bill of materials with its archives.
func (v *verification) bills(metadata map[string]manifests.Metadata) error {
	archives := map[string][]manifests.Artifact{} // by the name of their bill
	for _, asset := range slices.Concat(v.folder.Release.Of(manifests.KindBundle), v.folder.Release.Of(manifests.KindClient)) {
		if asset.Name != manifests.InstallerName {
			name := manifests.SBOMName(asset.Name)
			archives[name] = append(archives[name], asset)
		}
	}
	for _, name := range v.present {
		if _, known := archives[name]; manifests.KindOf(name) == manifests.KindSBOM && !known {
			v.add(name, publisher.RuleExtra, "there is no archive that it describes")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(archives)) {
		if !v.has(name) {
			if v.complete() {
				v.add(name, publisher.RuleMissing, "a signed release has one for each bundle and each client")
			}
			continue
		}
		text, err := os.ReadFile(v.dir.Path(name))
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
