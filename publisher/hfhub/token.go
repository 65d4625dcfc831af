package hfhub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// A TokenSource gives the token to publish with. rejected is the one that the Hub has just refused
// to know, empty at first: a source that cannot make another one fails then.
type TokenSource func(ctx context.Context, rejected string) (string, error)

// errNoOther is a token that nothing can replace.
var errNoOther = errors.New("there is no other token")

// StaticToken is a token that a user created: from HF_TOKEN, or from a file. It may be empty.
func StaticToken(token string) TokenSource {
	return func(_ context.Context, rejected string) (string, error) {
		if rejected != "" {
			return "", errNoOther
		}
		return token, nil
	}
}

// audience is what the Hub wants id tokens to be made out to, whatever its address.
const audience = "https://huggingface.co"

// TrustedPublisher exchanges an id token of this job for a token that writes to repo and is good
// for an hour, and does it again when that hour is over:
// https://huggingface.co/docs/hub/trusted-publishers. No secret is stored anywhere.
//
// The id token is that of HF_OIDC_ID_TOKEN, or GitHub Actions is asked for one, for which the job
// needs the permission id-token: write. ok is false where neither is at hand.
func (c *Client) TrustedPublisher(getenv func(string) string, repo string) (source TokenSource, ok bool) {
	given, address, key := getenv("HF_OIDC_ID_TOKEN"), getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if given == "" && (address == "" || key == "") {
		return nil, false
	}
	// A client without a token of its own: the exchange needs none, and GitHub's own key goes to
	// GitHub.
	plain := &Client{Endpoint: c.Endpoint, HTTP: c.HTTP, Tries: c.Tries, FirstWait: c.FirstWait, Stall: c.Stall, Tokens: StaticToken("")}
	return func(ctx context.Context, rejected string) (string, error) {
		id := given
		if id == "" {
			var err error
			if id, err = plain.actionsToken(ctx, address, key); err != nil {
				return "", fmt.Errorf("asking GitHub Actions for an id token: %w", err)
			}
		}
		token, err := plain.exchange(ctx, id, repo)
		if err != nil {
			return "", fmt.Errorf("exchanging the id token: %w", err)
		}
		return token, nil
	}, true
}

// actionsToken asks the runner for an id token:
// https://docs.github.com/en/actions/reference/security/oidc
func (c *Client) actionsToken(ctx context.Context, address, key string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not an address")
	}
	query := u.Query()
	query.Set("audience", audience)
	u.RawQuery = query.Encode()
	var answer struct{ Value string }
	err = c.retry(ctx, c.tries(), func() error {
		body, err := c.askOnce(ctx, call{method: http.MethodGet}, u.String(), nil, key)
		if err != nil {
			return err
		}
		return json.Unmarshal(body, &answer)
	})
	if err == nil && answer.Value == "" {
		err = errors.New("the answer has none")
	}
	return answer.Value, err
}

func (c *Client) exchange(ctx context.Context, id, repo string) (string, error) {
	var answer struct {
		Token string `json:"access_token"`
	}
	err := c.do(ctx, call{method: http.MethodPost, path: "/oauth/token", body: map[string]string{
		"grant_type":         "urn:ietf:params:oauth:grant-type:token-exchange",
		"subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
		"subject_token":      id,
		"resource":           repo,
	}}, &answer)
	if isStatus(err, http.StatusBadRequest) {
		return "", &publisher.RefusedError{Err: err, Way: "in the settings of " + c.endpoint() + "/" + repo +
			", Trusted Publishers must name this repository, branch or tag, and workflow, exactly; the repository must exist"}
	}
	if err == nil && answer.Token == "" {
		err = errors.New("the Hub's answer has no token")
	}
	return answer.Token, err
}

// currentToken is the token to use, a new one if that was rejected.
func (c *Client) currentToken(ctx context.Context, rejected string) (string, error) {
	if c.Tokens == nil {
		return "", nil
	}
	c.tokens.Lock() // so that uploads side by side ask for one new token, not for one each
	defer c.tokens.Unlock()
	if c.token != nil && *c.token != rejected {
		return *c.token, nil
	}
	token, err := c.Tokens(ctx, rejected)
	if err != nil {
		return "", err
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", errors.New("reading the token: it has a character that no token has")
	}
	c.token = &token
	return token, nil
}
