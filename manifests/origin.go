package manifests

// Where releases come from, and who may sign them: what somebody who forks the project changes, and nothing else.
const (
	// Repository is the GitHub repository that has the releases, and whose workflow makes them.
	Repository = "waqasm86/llcuda-farm"
	// RepositoryURL is its address.
	RepositoryURL = "https://github.com/" + Repository
	// SignerIdentity is the workflow that signs releases, by its address without the ref. The ref is the release's tag.
	SignerIdentity = RepositoryURL + "/.github/workflows/release.yml"
	// SignerIssuer vouches for that identity.
	SignerIssuer = "https://token.actions.githubusercontent.com"
)
