package hub

import "fmt"

// An OfflineError is a file that the cache does not have, where the network must not be used.
type OfflineError struct {
	Ref   Ref
	Cache string
}

func (e *OfflineError) Error() string {
	return fmt.Sprintf("%s is not in %s, and the network is switched off", e.Ref, e.Cache)
}

// Hint says what helps.
func (e *OfflineError) Hint() string {
	return "run it once with the network, without --offline and HF_HUB_OFFLINE, or copy the Hub's cache from a machine that has the file"
}

// A NetworkError is a Hub that gave no answer that could be used, after all tries.
type NetworkError struct {
	Endpoint string
	Err      error
}

func (e *NetworkError) Error() string { return fmt.Sprintf("asking %s: %v", e.Endpoint, e.Err) }
func (e *NetworkError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *NetworkError) Hint() string {
	return "check the network, HTTPS_PROXY and SSL_CERT_FILE; HF_ENDPOINT names another Hub"
}

// A GatedError is a repository whose owner wants to know who downloads from it.
type GatedError struct {
	Repo  string
	Page  string // where access is asked for
	Token bool   // whether a token was sent
}

func (e *GatedError) Error() string {
	return fmt.Sprintf("%s is gated: its owner gives access to those who ask for it", e.Repo)
}

// Hint says what helps.
func (e *GatedError) Hint() string {
	if e.Token {
		return "ask for access on " + e.Page + " with the account that the token belongs to; a fine-grained token also needs the right to read gated repositories"
	}
	return "ask for access on " + e.Page + ", then set HF_TOKEN to a token of that account"
}

// A RepositoryError is a repository that does not exist, or that is private: the Hub does not say which.
type RepositoryError struct {
	Repo     string
	Endpoint string
	Token    bool // whether a token was sent
}

func (e *RepositoryError) Error() string {
	return fmt.Sprintf("%s has no repository %s that can be seen", e.Endpoint, e.Repo)
}

// Hint says what helps.
func (e *RepositoryError) Hint() string {
	if e.Token {
		return "check the name; if the repository is private, the token must be one that can read it"
	}
	return "check the name; if the repository is private, set HF_TOKEN to a token that can read it"
}

// A RevisionError is a branch, tag or commit that a repository does not have.
type RevisionError struct{ Repo, Revision, Page string }

func (e *RevisionError) Error() string {
	return fmt.Sprintf("%s has no revision %s", e.Repo, e.Revision)
}

// Hint says what helps.
func (e *RevisionError) Hint() string { return "its branches, tags and commits are on " + e.Page }

// A FileError is a file that a repository does not have.
type FileError struct {
	Ref    Ref
	Page   string
	commit string // empty where the Hub does not say it
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s has no file %s at revision %s", e.Ref.Repo, e.Ref.Path, e.Ref.Revision)
}

// Hint says what helps.
func (e *FileError) Hint() string { return "its files are listed on " + e.Page }

// A TokenError is a token that the Hub does not know.
type TokenError struct{ Endpoint string }

func (e *TokenError) Error() string { return e.Endpoint + " does not accept the token" }

// Hint says what helps.
func (e *TokenError) Hint() string {
	return "it may have expired: set HF_TOKEN to a new one, or unset it and remove the token file; public files need none"
}

// A RefusedError is an answer of the Hub that no other type here stands for.
type RefusedError struct{ URL, Status, Message string }

func (e *RefusedError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("asking for %s: %s", e.URL, e.Status)
	}
	return fmt.Sprintf("asking for %s: %s: %q", e.URL, e.Status, e.Message)
}

// A MismatchError is a file that is not the one that was asked for. It is never tried again.
type MismatchError struct {
	Name      string
	Where     string // who has the wrong one: an address, a path, "the download"
	What      string // "size", "sha256" or "git blob id"
	Want, Got string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s is not the file wanted: its %s is %s in %s, wanted is %s", e.Name, e.What, e.Got, e.Where, e.Want)
}

// Hint says what it may mean.
func (e *MismatchError) Hint() string {
	return "the file was replaced in its repository, or something on the way changed it; name a commit of the repository (@revision) that has the file wanted"
}
