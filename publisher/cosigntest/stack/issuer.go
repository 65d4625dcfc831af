package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"
)

// workflowIssuer has the tokens of GitHub's workflows.
const workflowIssuer = "https://token.actions.githubusercontent.com"

// audience is the audience of Sigstore's tokens.
const audience = "sigstore"

// tokenLife is how long a token is valid. GitHub's are valid for ten minutes.
const tokenLife = 10 * time.Minute

// An issuer signs tokens: those of workflows, under GitHub's name, and those of people, under its own.
type issuer struct {
	key *rsa.PrivateKey
	own string // its address, and its name as the issuer of people's tokens

	mu      sync.Mutex
	devices map[string]*device // by their codes
}

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return &issuer{key: key, devices: map[string]*device{}}, nil
}

// A device is a device on which a user signs in.
type device struct {
	challenge string // what it will prove to know
	asked     int    // how often it asked for its token
}

func (i *issuer) listen() (string, error) {
	mux := http.NewServeMux()
	url, err := listen(mux)
	if err != nil {
		return "", err
	}
	i.own = url
	mux.Handle("/", i.handler(url))
	mux.HandleFunc("POST /mint", i.mint)
	mux.HandleFunc("GET /actions", i.actions)
	mux.HandleFunc("POST /device/code", i.deviceCode)
	mux.HandleFunc("POST /token", i.token)
	return url, nil
}

// handler answers for an issuer of that name: where its things are, and its key.
func (i *issuer) handler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{
			"issuer": name, "jwks_uri": name + "/.well-known/jwks",
			"authorization_endpoint": name + "/auth", "token_endpoint": name + "/token", "device_authorization_endpoint": name + "/device/code",
			"id_token_signing_alg_values_supported": []string{"RS256"}, "code_challenge_methods_supported": []string{"S256"},
			"response_types_supported": []string{"code", "id_token"}, "subject_types_supported": []string{"public"},
		})
	})
	mux.HandleFunc("GET /.well-known/jwks", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1",
			"n": base64.RawURLEncoding.EncodeToString(i.key.N.Bytes()),
			"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(i.key.E)).Bytes()),
		}}})
	})
	return mux
}

// sign makes a token of claims; what every token has is added where it is missing.
func (i *issuer) sign(claims map[string]any) (string, error) {
	now := time.Now()
	all := map[string]any{"aud": audience, "iat": now.Unix(), "nbf": now.Add(-5 * time.Second).Unix(), "exp": now.Add(tokenLife).Unix()}
	maps.Copy(all, claims)
	body, err := json.Marshal(all)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"1","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// mint signs the claims that the test sends.
func (i *issuer) mint(w http.ResponseWriter, r *http.Request) {
	var claims map[string]any
	if err := json.NewDecoder(r.Body).Decode(&claims); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	token, err := i.sign(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, token)
}

// actions is the token service of a GitHub runner. What the runner knows of the workflow comes with its URL.
func (i *issuer) actions(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer runner" {
		http.Error(w, "no such runner", http.StatusUnauthorized)
		return
	}
	claims := map[string]any{}
	if err := json.Unmarshal([]byte(r.FormValue("claims")), &claims); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	claims["aud"] = r.FormValue("audience")
	token, err := i.sign(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]string{"value": token})
}

// somebody is the user who signs in, always and immediately.
const somebody = "maintainer@example.org"

func (i *issuer) deviceCode(w http.ResponseWriter, r *http.Request) {
	code := rand.Text()
	i.mu.Lock()
	i.devices[code] = &device{challenge: r.FormValue("code_challenge")}
	i.mu.Unlock()
	writeJSON(w, map[string]any{"device_code": code, "user_code": "ABCD-EFGH", "verification_uri": i.own + "/device", "interval": 0, "expires_in": 300})
}

// token gives a device its token on its second request.
func (i *issuer) token(w http.ResponseWriter, r *http.Request) {
	refused := i.ask(r.FormValue("device_code"), r.FormValue("code_verifier"))
	if refused != "" {
		w.WriteHeader(http.StatusBadRequest)
		writeJSON(w, map[string]string{"error": refused})
		return
	}
	token, err := i.sign(map[string]any{"iss": i.own, "sub": "1", "email": somebody, "email_verified": true})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{"id_token": token, "access_token": "none", "token_type": "Bearer", "expires_in": 300})
}

// ask says why a device gets no token, in the words of RFC 8628.
func (i *issuer) ask(code, verifier string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	d, known := i.devices[code]
	proof := sha256.Sum256([]byte(verifier))
	if !known || base64.RawURLEncoding.EncodeToString(proof[:]) != d.challenge {
		return "access_denied"
	}
	if d.asked++; d.asked < 2 {
		return "authorization_pending"
	}
	return ""
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // an error is the client's, who went away
}

// A loopback transport answers for workflowIssuer, and lets no other request leave the machine.
type loopback struct {
	issuer http.Handler
	next   http.RoundTripper
}

func (l *loopback) RoundTrip(r *http.Request) (*http.Response, error) {
	if "https://"+r.URL.Host == workflowIssuer {
		answer := httptest.NewRecorder()
		answer.Body = &bytes.Buffer{}
		l.issuer.ServeHTTP(answer, r)
		return answer.Result(), nil
	}
	if host := r.URL.Hostname(); host != "127.0.0.1" {
		return nil, fmt.Errorf("asking %s: the stack talks to itself only", host)
	}
	return l.next.RoundTrip(r)
}
