package hub

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// FromEnvironment gives a client with the cache, the endpoint, the token and the offline mode that
// huggingface_hub would have, from the same variables: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME,
// HF_ENDPOINT, HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE,
// TRANSFORMERS_OFFLINE, HF_HUB_DISABLE_SYMLINKS. getenv is os.Getenv. What is wrong with the endpoint or the token matters
// only to what asks the Hub: see the client's EndpointProblem and TokenProblem. A token file that is not there is not a problem.
//
// Source: https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/constants.py
func FromEnvironment(getenv func(string) string) (*Client, error) {
	e := environment(getenv)
	cache := e.path(cmp.Or(getenv("HF_HUB_CACHE"), getenv("HUGGINGFACE_HUB_CACHE"), filepath.Join(e.home(), "hub")))
	if !filepath.IsAbs(cache) {
		absolute, err := filepath.Abs(cache)
		if err != nil {
			return nil, fmt.Errorf("finding the Hub's cache: %w", err)
		}
		cache = absolute
	}
	c := &Client{
		Cache:    cache,
		Endpoint: strings.TrimRight(cmp.Or(strings.TrimSpace(getenv("HF_ENDPOINT")), DefaultEndpoint), "/"),
		Offline:  IsTrue(cmp.Or(getenv("HF_HUB_OFFLINE"), getenv("TRANSFORMERS_OFFLINE"))),
		NoLinks:  IsTrue(getenv("HF_HUB_DISABLE_SYMLINKS")),
	}
	if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		c.EndpointProblem = fmt.Errorf("reading HF_ENDPOINT: %q is not an http or https address", c.Endpoint)
	}
	token, err := e.token()
	if err == nil {
		err = checkToken(token)
	}
	if err != nil {
		c.TokenProblem = &TokenFileError{err}
	} else {
		c.Token = token
	}
	return c, nil
}

type environment func(string) string

// home is the folder that huggingface_hub keeps everything in.
func (e environment) home() string {
	if home := e("HF_HOME"); home != "" {
		return e.path(home)
	}
	return e.path(filepath.Join(cmp.Or(e("XDG_CACHE_HOME"), filepath.Join(e("HOME"), ".cache")), "huggingface"))
}

// path expands ~, ~user and variables, as huggingface_hub does.
func (e environment) path(p string) string {
	if name, rest, _ := strings.Cut(p, "/"); name == "~" {
		p = e("HOME") + p[1:]
	} else if strings.HasPrefix(name, "~") {
		if other, err := user.Lookup(name[1:]); err == nil {
			p = filepath.Join(other.HomeDir, rest)
		}
	}
	return os.Expand(p, e)
}

func (e environment) token() (string, error) {
	if IsTrue(e("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
		return "", nil
	}
	if token := cleanToken(cmp.Or(e("HF_TOKEN"), e("HUGGING_FACE_HUB_TOKEN"))); token != "" {
		return token, nil
	}
	data, err := os.ReadFile(e.path(cmp.Or(e("HF_TOKEN_PATH"), filepath.Join(e.home(), "token"))))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return cleanToken(string(data)), err
}

func cleanToken(token string) string {
	return strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(token))
}

// checkToken refuses what cannot stand in a header. Its error never shows the token.
func checkToken(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("it has a character that no token has")
	}
	return nil
}

// IsTrue reads a switch of the environment as the Hub's tools do: 1, true, yes and on, in any case.
func IsTrue(value string) bool {
	switch strings.ToUpper(value) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}
