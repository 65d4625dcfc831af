package hub

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// An OfflineError is a file that the cache does not have, where the network must not be used.
type OfflineError struct {
	Ref   Ref
	Cache string
	Files []string // the GGUF files of the repository that the cache has, where that was asked
}

func (e *OfflineError) Error() string {
	return fmt.Sprintf("%s is not in %s, and the network is switched off%s", e.Ref, e.Cache, fileList(e.Files))
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
	if limit, ok := errors.AsType[*RateLimitError](e.Err); ok {
		return limit.Hint()
	}
	return "check the network, HTTPS_PROXY and SSL_CERT_FILE; HF_ENDPOINT names another Hub"
}

// A RateLimitError is a Hub that has had too many requests from this address or account (429).
type RateLimitError struct {
	Said  string        // the Hub's words, or the status
	After time.Duration // until it answers again; 0 where it does not say
	Token bool          // whether a token was sent
}

func (e *RateLimitError) Error() string {
	if e.After == 0 {
		return "too many requests: " + e.Said
	}
	return fmt.Sprintf("too many requests, it answers again in %s: %s", e.After, e.Said)
}

// Hint says what helps.
func (e *RateLimitError) Hint() string {
	return "run the command again later, and it resumes; " + e.advice()
}

func (e *RateLimitError) advice() string {
	if e.Token {
		return "the Hub counts the requests of the token's account"
	}
	return "with a token in HF_TOKEN the Hub allows more, and counts by account instead of by address"
}

// A RedirectError is a refusal by another host than the Hub's, to which the Hub had sent the request.
type RedirectError struct {
	From, To string
	Err      error
}

func (e *RedirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s: %v", e.From, e.To, e.Err)
}
func (e *RedirectError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *RedirectError) Hint() string {
	return "the token is not sent to another host; HF_ENDPOINT=" + e.To + " asks that one, with the token"
}

// A TokenFileError is a token that was configured and cannot be used.
type TokenFileError struct{ Err error }

func (e *TokenFileError) Error() string { return fmt.Sprintf("reading the Hub's token: %v", e.Err) }
func (e *TokenFileError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *TokenFileError) Hint() string {
	return "HF_TOKEN is the token itself, HF_TOKEN_PATH names another file with it, and HF_HUB_DISABLE_IMPLICIT_TOKEN=1 does without one"
}

// A CacheError is a cache that this user cannot write to.
type CacheError struct {
	Cache string
	Err   error
}

func (e *CacheError) Error() string {
	return fmt.Sprintf("writing to the Hub's cache %s: %v", e.Cache, e.Err)
}
func (e *CacheError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *CacheError) Hint() string {
	return "the folder is read-only, or belongs to another user: HF_HUB_CACHE names another one for models; users who share one need the right to write in all of its folders"
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
	Files  []string // the GGUF files that it has, where that is known
	commit string   // empty where the Hub does not say it
}

func (e *FileError) Error() string {
	text := fmt.Sprintf("%s has no file %s at revision %s", e.Ref.Repo, e.Ref.Path, e.Ref.Revision)
	if parts := Parts(e.Ref.Path); len(parts) > 1 {
		text += fmt.Sprintf(", one of the %d parts of a model", len(parts))
	}
	return text + fileList(e.Files)
}

// Hint says what helps.
func (e *FileError) Hint() string { return "its files are listed on " + e.Page }

// A ChoiceError is a name that stands for none of the GGUF files of a repository.
type ChoiceError struct {
	Name  Name
	What  string   // what was looked for: "model", "projector"
	Where string   // the Hub's page, or the cache
	Files []string // the GGUF files that it has
}

func (e *ChoiceError) Error() string {
	text := e.Name.Repo + " has no GGUF file of a " + e.What
	if e.Name.Quant != "" {
		text += " with " + e.Name.Quant + " in its name"
	}
	if e.Name.Folder != "" {
		text += " in " + e.Name.Folder
	}
	return text + " at revision " + e.Name.Revision + fileList(e.Files)
}

// Hint says what helps.
func (e *ChoiceError) Hint() string {
	if len(e.Files) == 0 {
		return "llama.cpp reads GGUF; look for a repository that has it, often of the same name with -GGUF; the files of this one are listed in " + e.Where
	}
	return "write " + e.Name.Repo + ":FILE with one of them; they are listed in " + e.Where
}

// maxListed keeps a message readable. Few repositories have more models, and the hint leads to all of them.
const maxListed = 60

func fileList(files []string) string {
	switch {
	case len(files) == 0:
		return ""
	case len(files) > maxListed:
		return fmt.Sprintf("; its GGUF files are %s and %d more", strings.Join(files[:maxListed], ", "), len(files)-maxListed)
	}
	return "; its GGUF files are " + strings.Join(files, ", ")
}

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
