// Package provenance says how the archives of a release were built: one in-toto statement over all of them, the client and
// install.sh, with a predicate of SLSA v1. README.md beside it is what its build type leads to.
//
// ci's commands call it. It takes the archives, the bundles' metadata and the run that built them, and returns a
// statement, which cosign signs. Check compares a statement with a release:
//
//	Facts, Run        ──Statement──▶ in-toto statement
//	statement, Facts  ──Check──▶ what is wrong with it
//
// Everything in a statement but the run is read from the archives, so that it cannot say something else than they do.
// The package neither signs nor verifies a signature.
package provenance

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

const (
	// PredicateType is SLSA's: https://slsa.dev/spec/v1.0/provenance.
	PredicateType = "https://slsa.dev/provenance/v1"
	// BuildType is this farm's way to build.
	BuildType = manifests.RepositoryURL + "/blob/main/publisher/provenance/README.md#v1"
	// LocalBuilder built where no workflow vouches for it: on a machine of the signer's own.
	LocalBuilder = manifests.RepositoryURL + "/blob/main/publisher/provenance/README.md#local"
)

// Facts are what the archives of a release say of themselves.
type Facts struct {
	// Files are what was made and is to be downloaded: the bundles, the CUDA runtimes, the client and install.sh.
	Files []manifests.Artifact
	// Bundles are the metadata of the bundles.
	Bundles []manifests.Metadata
	// Repository is where llama.cpp comes from. Where it is empty a statement may name any, and none need be named.
	Repository string
}

// A Run is what built.
type Run struct {
	// Builder is the workflow's identity; LocalBuilder where it is empty.
	Builder string
	// Invocation is the address of the workflow's run. It may be empty.
	Invocation string
}

// Statement writes the statement.
func Statement(facts Facts, run Run) ([]byte, error) {
	definition, subjects, err := facts.definition()
	if err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	predicate := &slsa.Provenance{
		BuildDefinition: definition,
		RunDetails:      &slsa.RunDetails{Builder: &slsa.Builder{Id: cmp.Or(run.Builder, LocalBuilder)}},
	}
	if run.Invocation != "" {
		predicate.RunDetails.Metadata = &slsa.BuildMetadata{InvocationId: run.Invocation}
	}
	if err := predicate.Validate(); err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	text, err := protojson.Marshal(predicate)
	if err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	var fields structpb.Struct
	if err := protojson.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	statement := &intoto.Statement{Type: intoto.StatementTypeUri, Subject: subjects, PredicateType: PredicateType, Predicate: &fields}
	if err := statement.Validate(); err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	if text, err = protojson.Marshal(statement); err != nil {
		return nil, fmt.Errorf("writing the provenance: %w", err)
	}
	var compact bytes.Buffer // protojson puts blanks where it likes
	err = json.Compact(&compact, text)
	return compact.Bytes(), err
}

// definition is everything that the archives themselves say.
func (f Facts) definition() (*slsa.BuildDefinition, []*intoto.ResourceDescriptor, error) {
	if len(f.Bundles) == 0 {
		return nil, nil, errors.New("there is no bundle")
	}
	bundles := slices.SortedFunc(slices.Values(f.Bundles), func(a, b manifests.Metadata) int { return a.Row.Compare(b.Row) })
	first := bundles[0]
	source := map[string]any{"version": first.LlamaCPP.Version, "commit": first.LlamaCPP.Commit, "build": first.LlamaCPP.Build}
	if f.Repository != "" {
		source["repository"] = f.Repository
	}
	var rows []any
	device, toolkits := map[string]any{}, map[string]any{}
	engines := map[string]bool{}
	for _, bundle := range bundles {
		if bundle.Row.PTX {
			rows = append(rows, bundle.Row.String())
		} else {
			rows = append(rows, int(bundle.Row.SM))
		}
		device[bundle.Row.String()] = list(bundle.Build.CUDACMake)
		engines[bundle.Build.Engine] = true
		toolkits[matrix.ToolkitName(bundle.Toolkit.CUDA)] = map[string]any{"cuda": bundle.Toolkit.CUDA, "nvcc": bundle.Toolkit.NVCC}
	}
	external, err := structpb.NewStruct(map[string]any{"release": first.Release, "llama_cpp": source, "sms": rows})
	if err != nil {
		return nil, nil, err
	}
	internal, err := structpb.NewStruct(map[string]any{
		"toolkits":          toolkits,
		"source_date_epoch": first.Build.SourceDateEpoch,
		"engine":            list(slices.Sorted(maps.Keys(engines))),
		"cmake":             map[string]any{"host": list(first.Build.HostCMake), "device": device},
	})
	if err != nil {
		return nil, nil, err
	}
	var subjects []*intoto.ResourceDescriptor
	for _, file := range slices.SortedFunc(slices.Values(f.Files), func(a, b manifests.Artifact) int { return cmp.Compare(a.Name, b.Name) }) {
		subjects = append(subjects, &intoto.ResourceDescriptor{Name: file.Name, Digest: map[string]string{"sha256": file.SHA256}})
	}
	return &slsa.BuildDefinition{
		BuildType: BuildType, ExternalParameters: external, InternalParameters: internal,
		ResolvedDependencies: f.dependencies(bundles),
	}, subjects, nil
}

func list(texts []string) []any {
	items := []any{}
	for _, text := range texts {
		items = append(items, text)
	}
	return items
}

// dependencies are the source, what it was patched with, and the images, each once: bundles that were built on several
// machines may have several.
func (f Facts) dependencies(bundles []manifests.Metadata) []*intoto.ResourceDescriptor {
	commit := bundles[0].LlamaCPP.Commit
	source := &intoto.ResourceDescriptor{Name: "llama.cpp", Digest: map[string]string{"gitCommit": commit}}
	if tree, ok := strings.CutPrefix(commit, "sha256:"); ok {
		source.Digest = map[string]string{"sha256": tree}
	} else if f.Repository != "" {
		source.Uri = "git+" + f.Repository + "@" + commit
	}
	found := []*intoto.ResourceDescriptor{source}
	seen := map[string]bool{}
	for _, bundle := range bundles {
		for _, patch := range bundle.Build.Patches {
			if !seen[patch.Name+patch.SHA256] {
				seen[patch.Name+patch.SHA256] = true
				found = append(found, &intoto.ResourceDescriptor{Name: "patches/" + patch.Name, Digest: map[string]string{"sha256": patch.SHA256}})
			}
		}
		for _, image := range []struct{ name, digest string }{
			{"builder image", bundle.Build.BuilderImage}, {"host image", bundle.Build.HostImage}, {"base image", bundle.Build.BaseImage},
		} {
			if seen[image.name+image.digest] {
				continue
			}
			seen[image.name+image.digest] = true
			d := &intoto.ResourceDescriptor{Name: image.name}
			if name, digest, ok := strings.Cut(image.digest, "sha256:"); ok {
				d.Digest = map[string]string{"sha256": digest}
				if name = strings.TrimSuffix(name, "@"); name != "" {
					d.Uri = name
				}
			} else {
				d.Uri = image.digest
			}
			found = append(found, d)
		}
	}
	return found
}

// Check returns what is wrong with a statement, both with its form and with what it says of the release. The caller has
// verified its signature. Signer is the identity that signed, or empty for a key: a workflow must name itself as the
// builder.
func Check(statement []byte, facts Facts, signer string) []string {
	fail := func(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }
	var got intoto.Statement
	if err := protojson.Unmarshal(statement, &got); err != nil {
		return fail("it is not an in-toto statement: %v", err)
	}
	if err := got.Validate(); err != nil {
		return fail("it is not an in-toto statement: %v", err)
	}
	if got.PredicateType != PredicateType {
		return fail("it is a statement of type %q, want %s", got.PredicateType, PredicateType)
	}
	text, err := protojson.Marshal(got.Predicate)
	if err != nil {
		return fail("%v", err)
	}
	var predicate slsa.Provenance
	if err := protojson.Unmarshal(text, &predicate); err != nil {
		return fail("its predicate is not SLSA's: %v", err)
	}
	if err := predicate.Validate(); err != nil {
		return fail("its predicate is not SLSA's: %v", err)
	}
	if facts.Repository == "" {
		// The archives know the commit, and not where it was fetched from.
		facts.Repository = predicate.BuildDefinition.ExternalParameters.GetFields()["llama_cpp"].GetStructValue().GetFields()["repository"].GetStringValue()
	}
	definition, subjects, err := facts.definition()
	if err != nil {
		return fail("%v", err)
	}
	problems := compareSubjects(got.Subject, subjects)
	for _, part := range []struct {
		name      string
		got, want any
	}{
		{"buildType", predicate.BuildDefinition.BuildType, definition.BuildType},
		{"externalParameters", predicate.BuildDefinition.ExternalParameters.AsMap(), definition.ExternalParameters.AsMap()},
		{"internalParameters", predicate.BuildDefinition.InternalParameters.AsMap(), definition.InternalParameters.AsMap()},
		{"resolvedDependencies", plain(predicate.BuildDefinition.ResolvedDependencies), plain(definition.ResolvedDependencies)},
	} {
		if !reflect.DeepEqual(part.got, part.want) {
			problems = append(problems, fmt.Sprintf("%s is %v, the bundles say %v", part.name, part.got, part.want))
		}
	}
	builder := predicate.RunDetails.Builder.Id
	if isWorkflow(signer) && builder != signer {
		problems = append(problems, fmt.Sprintf("it was built by %s and signed by %s", builder, signer))
	} else if !isWorkflow(signer) && builder != LocalBuilder {
		problems = append(problems, fmt.Sprintf("it was built by %s, which did not sign it", builder))
	}
	return problems
}

// isWorkflow reports whether an identity is that of a GitHub workflow.
func isWorkflow(identity string) bool { return strings.Contains(identity, "/.github/workflows/") }

func compareSubjects(got, want []*intoto.ResourceDescriptor) []string {
	var problems []string
	sums := map[string]string{}
	for _, subject := range got {
		if _, twice := sums[subject.Name]; twice {
			problems = append(problems, fmt.Sprintf("%s is in it twice", subject.Name))
		}
		sums[subject.Name] = subject.Digest["sha256"]
	}
	for _, subject := range want {
		switch sum, ok := sums[subject.Name]; {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s is not in it", subject.Name))
		case sum != subject.Digest["sha256"]:
			problems = append(problems, fmt.Sprintf("it has sha256 %s for %s, which is %s", sum, subject.Name, subject.Digest["sha256"]))
		}
		delete(sums, subject.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		problems = append(problems, fmt.Sprintf("it names %s, which is not in the release", name))
	}
	return problems
}

// plain has descriptors in a form to compare and to print.
func plain(list []*intoto.ResourceDescriptor) []string {
	var texts []string
	for _, d := range list {
		texts = append(texts, fmt.Sprintf("%s %s %v", d.Name, d.Uri, d.Digest))
	}
	return texts
}
