package sigverify

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
)

func TestPolicies(t *testing.T) {
	farm := func(p Policy) Policy {
		p.Repository, p.RepositoryID, p.OwnerID, p.Runner = manifests.RepositoryURL, manifests.RepositoryID, manifests.OwnerID, "github-hosted"
		return p
	}
	const fork = "https://github.com/owner/name/.github/workflows/"
	for _, test := range []struct {
		name, issuer, identity string
		key                    []byte
		release, pointer       Policy
	}{
		{"the farm's own", "", "", nil,
			farm(Policy{Issuer: GitHubActions, Identity: manifests.RepositoryURL + "/.github/workflows/release.yml", Refs: "refs/tags/"}),
			farm(Policy{Issuer: GitHubActions, Identity: manifests.RepositoryURL + "/.github/workflows/pointer.yml@refs/heads/main"})},
		{"a workflow of another repository", "", fork + "make.yml", nil,
			Policy{Issuer: GitHubActions, Identity: fork + "make.yml", Refs: "refs/tags/"},
			Policy{Issuer: GitHubActions, Identity: fork + "pointer.yml@refs/heads/main", Repository: "https://github.com/owner/name"}},
		{"a workflow at one tag", "", fork + "make.yml@refs/tags/v1", nil,
			Policy{Issuer: GitHubActions, Identity: fork + "make.yml@refs/tags/v1"},
			Policy{Issuer: GitHubActions, Identity: fork + "pointer.yml@refs/heads/main", Repository: "https://github.com/owner/name"}},
		{"a person", "https://accounts.example.com", "me@example.com", nil,
			Policy{Issuer: "https://accounts.example.com", Identity: "me@example.com"},
			Policy{Issuer: "https://accounts.example.com", Identity: "me@example.com"}},
		{"a key", "", "", []byte("key"), Policy{PublicKey: []byte("key")}, Policy{PublicKey: []byte("key")}},
	} {
		if diff := cmp.Diff(test.release, Release(test.issuer, test.identity, nil, test.key)); diff != "" {
			t.Errorf("%s: of releases (-want +got):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.pointer, Pointer(test.issuer, test.identity, nil, test.key)); diff != "" {
			t.Errorf("%s: of the pointer (-want +got):\n%s", test.name, diff)
		}
	}
}
