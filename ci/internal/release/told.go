package release

import (
	"context"
	"fmt"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
)

// Told is what the documents of a release tell.
type Told struct {
	Release manifests.Release
	// Benchmark is nil where the folder has none.
	Benchmark *manifests.Benchmark
	// Signer is nil where the release is not signed.
	Signer *sigverify.Signer
}

// Tell reads the documents in the folder, and verifies a signed release as a client does; it needs no
// archives. If mustBeSigned, it refuses a release without a signature.
func (d Dir) Tell(ctx context.Context, verifier *sigverify.Verifier, mustBeSigned bool) (Told, error) {
	release, err := d.Manifest()
	if err != nil {
		return Told{}, err
	}
	told := Told{Release: release}
	if mustBeSigned || exists(d.Path(manifests.SignatureName)) {
		found, err := Resolve(ctx, string(d), release.Release, verifier)
		if err != nil {
			return Told{}, fmt.Errorf("reading the release in %s: %w", d, err)
		}
		signer, err := verifier.Verify(found.Documents.Sums, found.Documents.Signature)
		if err != nil {
			return Told{}, err
		}
		told.Release, told.Signer = found.Release, &signer
	}
	told.Benchmark, err = d.describedBenchmark(told.Release)
	return told, err
}
