package manifests

// Where releases come from, and who may sign them: what somebody who forks the project changes, and nothing else.
const (
	// Repository is the GitHub repository that has the releases, and whose workflow makes them.
	Repository = "waqasm86/llcuda-farm"
	// RepositoryURL is its address.
	RepositoryURL = "https://github.com/" + Repository
	// RepositoryID and OwnerID are GitHub's numbers for the repository and its owner, which a later owner of the same
	// names does not get. They are compared where they are written down.
	RepositoryID, OwnerID = "", ""
	// SignerIdentity is the workflow that signs releases, by its address without the ref. The ref is the release's tag.
	SignerIdentity = RepositoryURL + "/.github/workflows/release.yml"
	// SignerIssuer vouches for that identity.
	SignerIssuer = "https://token.actions.githubusercontent.com"
)
