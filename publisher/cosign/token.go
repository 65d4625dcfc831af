package cosign

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/oauthflow"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// audience is the audience that a token for Sigstore must have.
const audience = "sigstore"

// A Token is an OIDC token, which proves the signer's identity. Only Fulcio verifies it; this package
// reads it for messages, and to find out early that it would be refused.
type Token struct {
	raw    string
	claims claims
}

type claims struct {
	Issuer         string `json:"iss"`
	Subject        string `json:"sub"`
	Email          string `json:"email"`
	JobWorkflowRef string `json:"job_workflow_ref"`
	Expires        int64  `json:"exp"`
	Federated      struct {
		Connector string `json:"connector_id"`
	} `json:"federated_claims"`
}

// errNoToken is text that is not a token.
var errNoToken = errors.New("it is not an OIDC token: three parts in base64, with dots between them")

// ParseToken reads a token that the user has.
func ParseToken(text string) (Token, error) {
	t := Token{raw: strings.TrimSpace(text)}
	parts := strings.Split(t.raw, ".")
	if len(parts) != 3 {
		return Token{}, fmt.Errorf("reading the token: %w", errNoToken)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &t.claims)
	}
	if err != nil {
		return Token{}, fmt.Errorf("reading the token: %w", errNoToken)
	}
	return t, t.check()
}

// check refuses a token that Fulcio would refuse for its age.
func (t Token) check() error {
	if t.raw == "" {
		return fmt.Errorf("reading the token: %w", errNoToken)
	}
	if expires := time.Unix(t.claims.Expires, 0); t.claims.Expires != 0 && time.Now().After(expires) {
		return &publisher.RefusedError{
			Err: fmt.Errorf("reading the token: it expired at %s", expires.UTC().Format(time.RFC3339)),
			Way: "get a new token and run the command again: it resumes here",
		}
	}
	return nil
}

// Identity is what a certificate for the token will name: the issuer and the subject, as sigverify
// compares them.
func (t Token) Identity() (issuer, identity string) {
	issuer, identity = t.claims.Issuer, t.claims.Subject
	switch {
	case t.claims.JobWorkflowRef != "":
		server := "https://github.com"
		if enterprise, ok := strings.CutSuffix(issuer, "/_services/token"); ok {
			server = enterprise // https://docs.github.com/en/enterprise-server/actions/concepts/security/openid-connect
		}
		identity = server + "/" + t.claims.JobWorkflowRef
	case t.claims.Email != "":
		identity = t.claims.Email
	}
	if t.claims.Federated.Connector != "" {
		issuer = t.claims.Federated.Connector
	}
	return issuer, identity
}

// A Runner is where a GitHub workflow asks for its tokens: the two variables that a job with the
// permission `id-token: write` has.
type Runner struct {
	RequestURL   string // ACTIONS_ID_TOKEN_REQUEST_URL
	RequestToken string // ACTIONS_ID_TOKEN_REQUEST_TOKEN
}

// Ambient is the token of the workflow that this process runs in.
func Ambient(ctx context.Context, runner Runner) (Token, error) {
	address, err := url.Parse(runner.RequestURL)
	if err != nil {
		return Token{}, fmt.Errorf("asking the runner for a token: %w", err)
	}
	query := address.Query()
	query.Set("audience", audience)
	address.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return Token{}, fmt.Errorf("asking the runner for a token: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+runner.RequestToken)
	client := &http.Client{Transport: newPatience(ctx, "the runner for a token"), CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the bearer token is for this address alone
	}}
	response, err := client.Do(request)
	if failed, ok := errors.AsType[*ServiceError](err); ok {
		failed.URL = address.Host // its query is private
		if failed.Status == http.StatusUnauthorized || failed.Status == http.StatusForbidden {
			return Token{}, &publisher.RefusedError{Err: failed, Way: "the job needs the permission id-token: write"}
		}
		return Token{}, failed
	}
	if err != nil {
		return Token{}, fmt.Errorf("asking the runner for a token: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return Token{}, fmt.Errorf("asking the runner for a token: %w", err)
	}
	return ParseToken(answer.Value)
}

// Interactive signs a person in with the services' own issuer: by a code to enter on any device,
// which show tells the person in one line.
func Interactive(ctx context.Context, services Services, show func(string)) (Token, error) {
	if services.issuer == "" {
		return Token{}, errors.New("signing in: the signing config names no issuer of tokens")
	}
	flow := oauthflow.NewDeviceFlowTokenGetterForIssuer(services.issuer)
	flow.MessagePrinter = show
	type answer struct {
		token *oauthflow.OIDCIDToken
		err   error
	}
	answered := make(chan answer, 1)
	go func() { // the library's calls take no context
		token, err := oauthflow.OIDConnect(services.issuer, audience, "", "", flow)
		answered <- answer{token, err}
	}()
	select {
	case a := <-answered:
		if a.err != nil {
			return Token{}, fmt.Errorf("signing in with %s: %w", services.issuer, a.err)
		}
		return ParseToken(a.token.RawString)
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}
