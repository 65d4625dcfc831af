package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Bundle checks that an archive is the bundle of a name: its metadata.json is that bundle's, in the
// one way to write it, and lists the very files. It returns the metadata, nil where it cannot be
// read.
func (c *Contents) Bundle(name string) (*manifests.Metadata, []Finding) {
	var findings []Finding
	add := func(format string, args ...any) {
		findings = append(findings, Finding{RuleMetadata, manifests.MetadataName, fmt.Sprintf(format, args...)})
	}
	m, err := manifests.DecodeMetadata(bytes.NewReader(c.Metadata))
	if err != nil {
		add("%v", err)
		return nil, findings
	}
	if canonical, err := m.Encode(); err != nil || !bytes.Equal(canonical, c.Metadata) {
		add("it is not written as it should be")
	}
	if m.Name != name {
		add("it is that of %s, and the archive is named %s", m.Name, name)
	}
	if c.Time.Unix() != m.Build.SourceDateEpoch {
		findings = append(findings, Finding{Rule: RuleArchive, Detail: fmt.Sprintf("the time of its files is %d, and its source_date_epoch %d", c.Time.Unix(), m.Build.SourceDateEpoch)})
	}
	return &m, append(findings, CompareFiles(WithoutMetadata(c.Files), m.Files)...)
}

// WithoutMetadata returns the files that a metadata.json lists: all but itself.
func WithoutMetadata(files []manifests.File) []manifests.File {
	return slices.DeleteFunc(slices.Clone(files), func(f manifests.File) bool { return f.Path == manifests.MetadataName })
}

// CompareFiles names every file that is missing, extra or changed against a list, by path. Files
// found without a digest are compared without it.
func CompareFiles(found, listed []manifests.File) []Finding {
	var findings []Finding
	add := func(path, format string, args ...any) {
		findings = append(findings, Finding{RuleMetadata, path, fmt.Sprintf(format, args...)})
	}
	have := make(map[string]manifests.File, len(found))
	for _, f := range found {
		have[f.Path] = f
	}
	for _, want := range listed {
		got, ok := have[want.Path]
		delete(have, want.Path)
		switch {
		case !ok:
			add(want.Path, "it is missing")
		case got.Link != want.Link:
			add(want.Path, "it links to %q, and must to %q", got.Link, want.Link)
		case got.Size != want.Size:
			add(want.Path, "it has %d bytes, and must have %d", got.Size, want.Size)
		case got.SHA256 != "" && got.SHA256 != want.SHA256:
			add(want.Path, "its sha256 is %s, and must be %s", got.SHA256, want.SHA256)
		case got.Mode != want.Mode:
			add(want.Path, "its mode is %s, and must be %s", got.Mode, want.Mode)
		}
	}
	for path := range have {
		add(path, "it is not one of the files")
	}
	slices.SortFunc(findings, func(x, y Finding) int { return strings.Compare(x.Path, y.Path) })
	return findings
}

// Describe returns the manifest's entry for an archive of a bundle, from its metadata.
func Describe(m manifests.Metadata, name, format string, file, tar manifests.Digest) manifests.Artifact {
	return manifests.Artifact{
		Name: name, Kind: manifests.KindBundle, URL: name, Format: format,
		Size: file.Size, SHA256: file.SHA256, Tar: &tar,
		Release: m.Release, SourceDateEpoch: m.Build.SourceDateEpoch,
		LlamaCPP: &m.LlamaCPP, Toolkit: &m.Toolkit,
		Row: m.Row, Architecture: m.Architecture, GPUs: m.GPUs,
		DeviceCode: &m.DeviceCode, Requires: &m.Requires,
	}
}

// CompareMetadata compares what a bundle says of itself with what the manifest says of it.
func CompareMetadata(m manifests.Metadata, a manifests.Artifact) []Finding {
	of := Describe(m, a.Name, a.Format, manifests.Digest{SHA256: a.SHA256, Size: a.Size}, *a.Tar)
	of.URL = a.URL
	return CompareFields(RuleMetadata, manifests.MetadataName, "it says", "the manifest says", of, a)
}

// CompareFields compares two values of a type field by field, as their JSON has it. The two words
// begin what each says.
func CompareFields(rule, path, said, read string, x, y any) []Finding {
	xs, ys := fieldsOf(x), fieldsOf(y)
	names := maps.Clone(xs)
	maps.Copy(names, ys)
	var findings []Finding
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a, b := string(xs[name]), string(ys[name]); a != b {
			findings = append(findings, Finding{rule, path, fmt.Sprintf("%s: %s %s, %s %s", name, said, orNothing(a), read, orNothing(b))})
		}
	}
	return findings
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func fieldsOf(v any) map[string]json.RawMessage {
	data, err := json.Marshal(v)
	var fields map[string]json.RawMessage
	if err := errors.Join(err, json.Unmarshal(data, &fields)); err != nil {
		panic(err) // manifests' own types
	}
	return fields
}
