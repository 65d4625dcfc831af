// Package cosigntest gives tests a whole Sigstore of their own on loopback: issuer, Fulcio, certificate log, timestamp
// authority, Rekor v1 and v2, with keys made at the start. Only tests import it.
//
//	stack := cosigntest.Start(t)
//	token := stack.Token(t, cosigntest.Workflow{})   what GitHub gives the release workflow, for a tag
//
// The servers are those of package main in stack, a module of its own, which Start compiles: minutes the first time,
// nothing after that. Certificates name GitHub's own issuer, so production policies apply to them unchanged; only the
// trusted root differs.
package cosigntest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
)

// Tag is the tag that workflows run for unless a test sets another one.
const Tag = "v1.1.0-runtime"

// RepositoryID and OwnerID are the numbers of the repository and its owner unless a test sets others.
const RepositoryID, OwnerID = "1001", "2002"

// Email is the user that the stack's issuer signs in when a client asks it for a token interactively.
const Email = "maintainer@example.org"

// A Stack is a running Sigstore.
type Stack struct {
	// SigningConfig and TrustedRoot are files. The config has both logs.
	SigningConfig, TrustedRoot string
	// Issuer vouches for people. The rest are the services' addresses.
	Issuer, Fulcio, TSA, RekorV1, RekorV2 string
}

// Start compiles the stack if need be and runs it until the test ends.
func Start(t testing.TB) *Stack {
	t.Helper()
	program, err := compile()
	if err != nil {
		t.Fatalf("compiling the Sigstore stack: %v", err)
	}
	dir := t.TempDir()
	command := exec.Command(program, dir)
	var said bytes.Buffer
	command.Stderr = &said
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("starting the Sigstore stack: %v", err)
	}
	t.Cleanup(func() { stop(command, stdin) })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		stop(command, stdin)
		t.Fatalf("starting the Sigstore stack: %q, %v\n%s", line, err, said.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, "stack.json"))
	if err != nil {
		t.Fatal(err)
	}
	var urls struct {
		Issuer  string `json:"issuer"`
		Fulcio  string `json:"fulcio"`
		TSA     string `json:"tsa"`
		RekorV1 string `json:"rekor_v1"`
		RekorV2 string `json:"rekor_v2"`
	}
	if err := json.Unmarshal(text, &urls); err != nil {
		t.Fatal(err)
	}
	return &Stack{
		SigningConfig: filepath.Join(dir, "signing_config.json"), TrustedRoot: filepath.Join(dir, "trusted_root.json"),
		Issuer: urls.Issuer, Fulcio: urls.Fulcio, TSA: urls.TSA, RekorV1: urls.RekorV1, RekorV2: urls.RekorV2,
	}
}

// stop ends the stack: it runs as long as its input is open.
func stop(command *exec.Cmd, stdin io.Closer) {
	stdin.Close()
	late := time.AfterFunc(10*time.Second, func() { command.Process.Kill() })
	command.Wait() // how it ended is not a test's business
	late.Stop()
}

// A Workflow is what a token says of the workflow that asks for it. The zero value is this repository's release
// workflow on GitHub's own runner, for Tag.
type Workflow struct {
	Repository   string // owner/name
	Path         string // ".github/workflows/release.yml"
	Ref          string // "refs/tags/v1.1.0-runtime"
	Commit       string // 40 hex digits
	RepositoryID string
	OwnerID      string
	Runner       string // "github-hosted"
	Issuer       string // GitHub's
	Audience     string // "sigstore"
	Expires      time.Time
}

// claims are those that GitHub's tokens have:
// https://docs.github.com/en/actions/reference/security/oidc
func (w Workflow) claims() map[string]any {
	repository := cmp.Or(w.Repository, manifests.Repository)
	path := cmp.Or(w.Path, strings.TrimPrefix(manifests.SignerIdentity, manifests.RepositoryURL+"/"))
	ref := cmp.Or(w.Ref, "refs/tags/"+Tag)
	owner, _, _ := strings.Cut(repository, "/")
	workflow := repository + "/" + path + "@" + ref
	commit := cmp.Or(w.Commit, strings.Repeat("01", 20))
	claims := map[string]any{
		"iss": cmp.Or(w.Issuer, manifests.SignerIssuer), "sub": "repo:" + repository + ":ref:" + ref,
		"repository": repository, "repository_owner": owner, "repository_visibility": "public",
		"repository_id": cmp.Or(w.RepositoryID, manifests.RepositoryID, RepositoryID), "repository_owner_id": cmp.Or(w.OwnerID, manifests.OwnerID, OwnerID),
		"ref": ref, "sha": commit, "event_name": "push", "workflow": "release",
		"workflow_ref": workflow, "workflow_sha": commit, "job_workflow_ref": workflow, "job_workflow_sha": commit,
		"runner_environment": cmp.Or(w.Runner, "github-hosted"), "run_id": "42", "run_attempt": "1",
	}
	if w.Audience != "" {
		claims["aud"] = w.Audience
	}
	if !w.Expires.IsZero() {
		claims["exp"] = w.Expires.Unix()
	}
	return claims
}

// Token is a workflow's token for Sigstore.
func (s *Stack) Token(t testing.TB, w Workflow) string {
	t.Helper()
	return s.mint(t, w.claims())
}

func (s *Stack) mint(t testing.TB, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(s.Issuer+"/mint", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	token, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("minting a token: %s, %v, %s", response.Status, err, token)
	}
	return string(token)
}

// Runner is the environment of a GitHub runner on which the workflow may ask for tokens.
func (s *Stack) Runner(t testing.TB, w Workflow) map[string]string {
	t.Helper()
	claims, err := json.Marshal(w.claims())
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"ACTIONS_ID_TOKEN_REQUEST_URL":   s.Issuer + "/actions?" + url.Values{"claims": {string(claims)}}.Encode(),
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
	}
}

// Config is a signing config with other addresses for some services: "" takes a service out.
func (s *Stack) Config(t testing.TB, other map[string]string) string {
	t.Helper()
	text, err := os.ReadFile(s.SigningConfig)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"caUrls", "oidcUrls", "rekorTlogUrls", "tsaUrls"} {
		services, ok := config[kind].([]any)
		if !ok {
			t.Fatalf("the signing config has no %s", kind)
		}
		kept := []any{}
		for _, service := range services {
			service := service.(map[string]any)
			base := strings.TrimSuffix(service["url"].(string), "/api/v1/timestamp")
			to, changed := other[base]
			if changed && to == "" {
				continue
			}
			if changed {
				service["url"] = to + strings.TrimPrefix(service["url"].(string), base)
			}
			kept = append(kept, service)
		}
		config[kind] = kept
	}
	if text, err = json.MarshalIndent(config, "", "  "); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "signing_config.json")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Read is a file's content.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(fmt.Errorf("reading what the test needs: %w", err))
	}
	return content
}
