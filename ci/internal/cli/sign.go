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
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/sigverify"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/spec"
	"github.com/waqasm86/llcuda-farm/publisher/cosign"
	"github.com/waqasm86/llcuda-farm/publisher/provenance"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

func signCommand(term *terminal) *cobra.Command {
	var as signing
	cmd := &cobra.Command{
		Use:   "sign DIR",
		Short: "Sign a release: bills of materials, provenance, SHA256SUMS",
		Long: `Sign a release: bills of materials, provenance, SHA256SUMS.

Writes what is in each archive (NAME.spdx.json) and a signed statement of how all of
them were built, describes the folder again with these files, and signs SHA256SUMS.
It verifies every signature the way a client does before it writes it. A folder that
is already signed stays as it is. After an interruption, repeat the command.

In a GitHub workflow with the permission id-token: write, it signs as the workflow.
Elsewhere --sign-in signs as a person, --oidc-token as the identity in a token, and
--key with a key. Clients accept these signers only with the same --identity and
--issuer, or with the public key.`,
		Example: `  go run ./ci sign dist                   # in the release workflow
  go run ./ci sign dist --key farm.key    # a private farm`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := existingDir(args[0])
			if err != nil {
				return err
			}
			m, err := spec.Default()
			if err != nil {
				return fmt.Errorf("reading the matrix: %w", err)
			}
			c, err := as.open(cmd.Context(), term, sigverify.Release)
			if err != nil {
				return err
			}
			s := signature{dir: dir, term: term, credential: c, pin: m.LlamaCPP}
			return s.run(cmd.Context())
		},
	}
	as.flags(cmd)
	return cmd
}

// A signature is one sign of one folder.
type signature struct {
	dir  releaseDir
	term *terminal
	*credential
	pin matrix.LlamaPin

	archives []manifests.Artifact
	clients  []manifests.Artifact          // and install.sh
	bundles  map[string]manifests.Metadata // by name
}

func (s *signature) run(ctx context.Context) error {
	unlock, err := s.dir.lock()
	if err != nil {
		return err
	}
	defer unlock()
	beside, err := s.preflight(ctx)
	if err != nil {
		return err
	}
	release := s.release()
	if err := s.expects(release); err != nil {
		return err
	}
	if signer, err := s.signed(ctx); err != nil {
		return err
	} else if signer != "" {
		s.term.printf("%s: release %s is signed already, by %s", s.dir.path(manifests.SignatureName), release, signer)
		return nil
	}
	bills, err := s.bills(ctx, beside)
	if err != nil {
		return err
	}
	statement, err := s.statement(ctx)
	if err != nil {
		return err
	}
	// Up to here nothing was written. What follows is the same whenever it is done again.
	for _, name := range beside {
		if _, mine := bills[name]; manifests.KindOf(name) == manifests.KindSBOM && !mine {
			s.term.warnf("removed %s: there is no such archive", s.dir.path(name))
			if err := os.Remove(s.dir.path(name)); err != nil {
				return err
			}
		}
	}
	bills[manifests.ProvenanceName] = statement
	for _, name := range sortedKeys(bills) {
		if err := s.writeChanged(name, bills[name]); err != nil {
			return err
		}
	}
	says, err := s.dir.describeWith(s.archives)
	if err != nil {
		return err
	}
	if _, err := s.dir.write(says, s.term); err != nil {
		return err
	}
	var signer sigverify.Signer
	bundle, err := s.made(ctx, s.term,
		func(c *cosign.Signer) (cosign.Signature, error) { return c.SignFile(ctx, says.sums) },
		func(bundle []byte) (err error) {
			signer, err = s.verifier.Verify(says.sums, bundle)
			return errors.Join(err, sameTag(signer, release))
		})
	if err != nil {
		return fmt.Errorf("%s: %w", s.dir.path(manifests.SignatureName), err)
	}
	if err := writeFile(s.dir.path(manifests.SignatureName), bundle); err != nil {
		return err
	}
	s.term.printf("%s: release %s, %d assets, signed by %s", s.dir.path(manifests.SignatureName), release, len(says.release.Assets), signer.By())
	return nil
}

// release is the tag that the bundles name.
func (s *signature) release() string {
	return s.archives[slices.IndexFunc(s.archives, func(a manifests.Artifact) bool { return a.Kind == manifests.KindBundle })].Release
}

// preflight makes sure that what is to be signed is what was built: every archive, and the client, as SHA256SUMS has it.
// A client that is not named there yet joins. Documents that sign makes itself may be half-made.
func (s *signature) preflight(ctx context.Context) (beside []string, err error) {
	if err := s.dir.removePartials(); err != nil {
		return nil, err
	}
	archives, beside, err := s.dir.contents()
	if err != nil {
		return nil, err
	}
	v := verification{dir: s.dir}
	sums, err := v.sums()
	if err != nil {
		return nil, err
	}
	present := slices.DeleteFunc(slices.Concat(archives, beside), func(name string) bool {
		_, named := sums[name]
		return !isSigned(name) || !named && sums != nil && !manifests.IsArchive(name)
	})
	for name := range sums {
		if !isSigned(name) {
			delete(sums, name)
		}
	}
	if err := v.files(ctx, present, sums); err != nil {
		return nil, err
	}
	if len(v.findings) > 0 {
		return nil, &refusal{fmt.Errorf("signing %s: it is not what %s says:\n%w", s.dir, manifests.SumsName, v.joined()),
			fmt.Sprintf("go run ./ci verify %s shows more; if the files are right, go run ./ci manifest %s describes them again", s.dir, s.dir)}
	}
	if s.archives, err = s.dir.readArchives(ctx, archives); err != nil {
		return nil, err
	}
	return beside, s.wheels(ctx, beside)
}

// wheels makes sure that the wheels have the client that is signed with them.
func (s *signature) wheels(ctx context.Context, beside []string) error {
	v := verification{dir: s.dir, release: &manifests.Release{Release: s.release(), SourceDateEpoch: s.epoch()}}
	if err := v.wheels(ctx, beside); err != nil {
		return err
	}
	if len(v.findings) == 0 {
		return nil
	}
	return &refusal{fmt.Errorf("signing %s:\n%w", s.dir, v.joined()), fmt.Sprintf("go run ./ci wheel %s builds the wheels again", s.dir)}
}

// isSigned says whether a file is made before the signing: what is signed for, as opposed to what says so.
func isSigned(name string) bool {
	return manifests.IsArchive(name) || manifests.KindOf(name) == manifests.KindClient
}

// signed says who signed the folder, if all that sign makes is there and right.
func (s *signature) signed(ctx context.Context) (string, error) {
	if !exists(s.dir.path(manifests.SignatureName)) {
		return "", nil
	}
	present, err := s.dir.names()
	if err != nil {
		return "", err
	}
	v := verification{dir: s.dir, verifier: s.verifier, mustBeSigned: true}
	sums, err := v.sums()
	if err != nil {
		return "", err
	}
	if err := errors.Join(v.files(ctx, present, sums), v.manifest(sums)); err != nil {
		return "", err
	}
	if err := v.statements(ctx, present); err != nil || len(v.findings) > 0 {
		return "", err
	}
	return v.signer, nil
}

// bills makes the bills of materials, by their names.
func (s *signature) bills(ctx context.Context, beside []string) (map[string][]byte, error) {
	stems := map[string][]manifests.Artifact{}
	var runtime []manifests.Artifact
	for _, archive := range s.archives {
		if archive.Kind == manifests.KindBundle {
			stems[archive.Stem()] = append(stems[archive.Stem()], archive)
		} else {
			runtime = append(runtime, archive)
		}
	}
	names := sortedKeys(stems)
	metadata := make([]manifests.Metadata, len(names))
	texts := make([][]byte, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readLimit())
	for i, name := range names {
		group.Go(func() (err error) {
			metadata[i], texts[i], err = s.bill(ctx, stems[name], runtime)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	bills := map[string][]byte{}
	s.bundles = map[string]manifests.Metadata{}
	for i, name := range names {
		bills[manifests.SBOMName(name)], s.bundles[name] = texts[i], metadata[i]
	}
	s.clients = nil
	for _, name := range beside {
		if manifests.KindOf(name) != manifests.KindClient {
			continue
		}
		artifact, err := s.dir.beside(name)
		if err != nil {
			return nil, err
		}
		s.clients = append(s.clients, artifact)
		if name == manifests.InstallerName {
			continue
		}
		text, err := s.clientBill(artifact)
		if err != nil {
			return nil, err
		}
		bills[manifests.SBOMName(name)] = text
	}
	return bills, nil
}

// bill unpacks a bundle and lists it.
func (s *signature) bill(ctx context.Context, archives, runtime []manifests.Artifact) (manifests.Metadata, []byte, error) {
	fail := func(err error) (manifests.Metadata, []byte, error) { return manifests.Metadata{}, nil, err }
	dir, err := os.MkdirTemp("", "llcuda-sbom-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	meta, err := bundler.Unpack(ctx, s.dir.path(archives[len(archives)-1].Name), root) // the zst: it unpacks faster
	if err != nil {
		return fail(err)
	}
	text, err := sbom.Bundle(sbom.Contents{FS: root.FS(), Metadata: meta, Archives: archives, Runtime: runtime, Repository: repositoryOf(s.pin, meta.LlamaCPP)})
	return meta, text, err
}

// repositoryOf is where llama.cpp comes from, if it is the one that the matrix pins: archives know the commit alone.
func repositoryOf(pin matrix.LlamaPin, l manifests.LlamaCPP) string {
	if l.Commit != pin.Commit {
		return ""
	}
	return pin.Repository
}

func (s *signature) clientBill(artifact manifests.Artifact) ([]byte, error) {
	created := time.Unix(s.epoch(), 0)
	if manifests.IsWheel(artifact.Name) {
		version, _, err := wheel.Parse(artifact.Name)
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(s.dir.path(artifact.Name))
		if err != nil {
			return nil, err
		}
		return sbom.Wheel(data, artifact, version, created)
	}
	f, err := os.Open(s.dir.path(artifact.Name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sbom.Client(f, artifact, s.release(), created)
}

func (s *signature) epoch() int64 {
	epoch := int64(0)
	for _, archive := range s.archives {
		epoch = max(epoch, archive.SourceDateEpoch)
	}
	return epoch
}

func (s *signature) facts() provenance.Facts {
	facts := provenance.Facts{Files: slices.Concat(s.archives, s.clients)}
	for _, name := range sortedKeys(s.bundles) {
		facts.Bundles = append(facts.Bundles, s.bundles[name])
	}
	facts.Repository = repositoryOf(s.pin, facts.Bundles[0].LlamaCPP)
	return facts
}

// statement is the signed provenance: that in the folder where it holds, else a new one.
func (s *signature) statement(ctx context.Context) ([]byte, error) {
	release, facts := s.release(), s.facts()
	holds := func(bundle []byte) error {
		statement, signer, err := s.verifier.VerifyStatement(bundle)
		if err == nil {
			err = sameTag(signer, release)
		}
		if err != nil {
			return err
		}
		if problems := provenance.Check(statement.Payload, facts, signer.Identity); len(problems) > 0 {
			return errors.New(strings.Join(problems, "; "))
		}
		return nil
	}
	old, err := os.ReadFile(s.dir.path(manifests.ProvenanceName))
	if err == nil && holds(old) == nil {
		return old, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	text, err := provenance.Statement(facts, s.builtBy())
	if err != nil {
		return nil, err
	}
	bundle, err := s.made(ctx, s.term, func(c *cosign.Signer) (cosign.Signature, error) { return c.SignStatement(ctx, text) }, holds)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.dir.path(manifests.ProvenanceName), err)
	}
	return bundle, nil
}

// builtBy is the run of the workflow that signs: it is the one that built, or that collected what its jobs built.
func (s *signature) builtBy() provenance.Run {
	if !strings.Contains(s.identity, "/.github/workflows/") {
		return provenance.Run{}
	}
	run := provenance.Run{Builder: s.identity}
	if id := os.Getenv("GITHUB_RUN_ID"); id != "" {
		run.Invocation = fmt.Sprintf("%s/%s/actions/runs/%s/attempts/%s", cmp.Or(os.Getenv("GITHUB_SERVER_URL"), "https://github.com"),
			os.Getenv("GITHUB_REPOSITORY"), id, cmp.Or(os.Getenv("GITHUB_RUN_ATTEMPT"), "1"))
	}
	return run
}

// sameTag refuses a signature that a workflow made for another tag than the release's.
func sameTag(signer sigverify.Signer, release string) error {
	if signer.Ref == "" || signer.Ref == sigverify.Tags+release {
		return nil
	}
	return fmt.Errorf("it was signed for %s, and the release is %s", signer.Ref, release)
}

// writeChanged leaves a file alone that has this content already.
func (s *signature) writeChanged(name string, data []byte) error {
	if old, err := os.ReadFile(s.dir.path(name)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return writeFile(s.dir.path(name), data)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
