package ghtest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// GitHub's own client works with the server as with GitHub.
func TestOfficialClient(t *testing.T) {
	folder, server := ghtest.Octokit(t), ghtest.New(t, ghtest.Options{})
	owner, repo, _ := strings.Cut(ghtest.Repository, "/")
	argument, err := json.Marshal(map[string]string{"api": server.APIURL, "owner": owner, "repo": repo, "token": server.Token, "tag": "v1"})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "release.mjs", string(argument))
	cmd.Dir = folder
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "all as on GitHub\n" {
		t.Fatalf("%v\n%s", err, out)
	}
	all := server.Releases(ghtest.Repository)
	if len(all) != 1 || all[0].Draft || !all[0].Latest || len(all[0].Assets) != 2 {
		t.Errorf("%+v", all)
	}
}

// The server answers the recorded requests with the statuses and in the form that GitHub did. Its answers may have the
// fields that came after the recording, and lack GitHub's number of the request.
func TestRecorded(t *testing.T) {
	newer := []string{"digest", "immutable", "updated_at", "status"}
	for _, scenario := range []string{"release-assets", "release-assets-conflict"} {
		t.Run(scenario, func(t *testing.T) {
			const owner = "octokit-fixture-org/"
			server := ghtest.New(t, ghtest.Options{Repositories: []string{owner + scenario}})
			send := func(method, path, kind string, body []byte) (int, any) {
				t.Helper()
				prefix := server.APIURL
				if kind == "application/octet-stream" {
					prefix = server.URL + "/api/uploads"
				}
				request, err := http.NewRequest(method, prefix+path, bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Authorization", "token "+server.Token)
				if kind != "" {
					request.Header.Set("Content-Type", kind)
				}
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				data, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				var value any
				if len(data) > 0 {
					if err := json.Unmarshal(data, &value); err != nil {
						t.Fatal(err)
					}
				}
				return response.StatusCode, value
			}
			// The state of the server before the recording began.
			_, made := send("POST", "/repos/"+owner+scenario+"/releases", "application/json", []byte(`{"tag_name":"v1.0.0","name":"Version 1.0.0","body":"Initial release"}`))
			releaseID := fmt.Sprintf("%.0f", made.(map[string]any)["id"])
			releasePath := regexp.MustCompile(`/releases/[0-9]+`)
			assetPath := regexp.MustCompile(`/releases/assets/[0-9]+`)
			var assetID string
			for i, step := range ghtest.Recording(t, scenario) {
				if scenario == "release-assets-conflict" && i == 1 { // another client's upload, which the recording does not show
					send("POST", "/repos/"+owner+scenario+"/releases/"+releaseID+"/assets?name=test-upload.txt&label=test", "application/octet-stream", []byte("Hello, world!\n"))
				}
				path := releasePath.ReplaceAllString(step.Path, "/releases/"+releaseID)
				path = assetPath.ReplaceAllString(path, "/releases/assets/"+assetID)
				var body []byte
				kind := ""
				switch sent := step.Body.(type) {
				case string:
					if body = []byte(sent); len(body) > 0 {
						kind = "application/octet-stream"
					}
				default:
					body, _ = json.Marshal(sent)
					kind = "application/json"
				}
				status, got := send(strings.ToUpper(step.Method), path, kind, body)
				if status != step.Status {
					t.Errorf("step %d, %s %s: %d, and GitHub's answer was %d", i, step.Method, path, status, step.Status)
				}
				var want any
				if string(step.Response) != `""` {
					if err := json.Unmarshal(step.Response, &want); err != nil {
						t.Fatal(err)
					}
				}
				for _, difference := range differences("", want, got, newer) {
					t.Errorf("step %d, %s %s: %s", i, step.Method, path, difference)
				}
				if list, ok := got.([]any); ok && len(list) == 1 {
					assetID = fmt.Sprintf("%.0f", list[0].(map[string]any)["id"])
				}
			}
		})
	}
}

// differences are those of the form of two JSON values: fields, and types where neither is null.
func differences(at string, want, got any, newer []string) []string {
	if want == nil || got == nil {
		if (want == nil) != (got == nil) && at == "" {
			return []string{fmt.Sprintf("an answer %v, want %v", got, want)}
		}
		return nil
	}
	if reflect.TypeOf(want) != reflect.TypeOf(got) {
		return []string{fmt.Sprintf("%s is a %T, want a %T", at, got, want)}
	}
	var found []string
	switch want := want.(type) {
	case map[string]any:
		got := got.(map[string]any)
		for name := range want {
			if _, there := got[name]; !there && name != "request_id" {
				found = append(found, at+"."+name+" is missing")
			} else if there {
				found = append(found, differences(at+"."+name, want[name], got[name], newer)...)
			}
		}
		for name := range got {
			if _, there := want[name]; !there && !slices.Contains(newer, name) {
				found = append(found, at+"."+name+" is not GitHub's")
			}
		}
	case []any:
		if got := got.([]any); len(want) > 0 && len(got) > 0 {
			found = differences(at+"[0]", want[0], got[0], newer)
		} else if len(want) != len(got) {
			found = append(found, fmt.Sprintf("%s has %d items, want %d", at, len(got), len(want)))
		}
	}
	return found
}
