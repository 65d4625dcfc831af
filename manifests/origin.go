package manifests

import "strings"

// Where releases come from, and who may sign them: a fork of the project changes these, and nothing
// else.
const (
	// Repository is the GitHub repository that has the releases, and whose workflow makes them.
	Repository = "waqasm86/llcuda-farm"
	// RepositoryURL is its address.
	RepositoryURL = "https://github.com/" + Repository
	// SignerIdentity is the workflow that signs releases, by its address without the ref. The ref
	// is the release's tag.
	SignerIdentity = RepositoryURL + "/.github/workflows/release.yml"
	// PointerWorkflow is the workflow of the same repository that signs the release pointer, with
	// its ref: it runs on the default branch alone, after a release and by the clock.
	PointerWorkflow = ".github/workflows/pointer.yml@refs/heads/main"
	// PointerBranch is the branch that has the release pointer, and beside it a page for people.
	PointerBranch = "pointer"
	// Distribution is what the Python package is called in package indexes, and in
	// manifests/python/pyproject.toml. It is imported as llcuda, whatever that is.
	Distribution = "llcuda"
	// SignerIssuer vouches for these identities.
	SignerIssuer = "https://token.actions.githubusercontent.com"
)

// RepositoryID and OwnerID are GitHub's numbers for the repository and its owner, which a later
// owner of the same names does not get. Signatures must be of these where a program has them. They
// are variables for the linker's -X alone, by which ci client stamps them into the packaged
// llcuda-fetch in GitHub Actions, where they are known for certain.
var RepositoryID, OwnerID string

// PointerURLs are where the release pointer is, without an API: the branch as GitHub's servers for
// raw files give it, and as GitHub Pages does, where the repository publishes that branch. The
// former are asked first, for they are always there, and the latter where they refuse: they count
// an address's requests, and notebooks share addresses.
// https://github.blog/changelog/2025-05-08-updated-rate-limits-for-unauthenticated-requests/
func PointerURLs() []string {
	owner, name, _ := strings.Cut(Repository, "/")
	return []string{
		"https://raw.githubusercontent.com/" + Repository + "/" + PointerBranch + "/" + PointerName,
		"https://" + strings.ToLower(owner) + ".github.io/" + name + "/" + PointerName,
	}
}
