package ghrelease

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-github/v66/github"
)

// Which answers ask for a pause, and for how long.
func TestLimit(t *testing.T) {
	const now = "Fri, 01 Jan 2010 00:00:00 GMT"
	type pause struct {
		After   time.Duration
		Limited bool
	}
	for name, test := range map[string]struct {
		status  int
		header  map[string]string
		message string
		want    pause
	}{
		"seconds":                {429, map[string]string{"Retry-After": "7"}, "", pause{7 * time.Second, true}},
		"at once":                {403, map[string]string{"Retry-After": "0"}, "", pause{time.Second, true}},
		"a date":                 {403, map[string]string{"Date": now, "Retry-After": "Fri, 01 Jan 2010 00:02:00 GMT"}, "", pause{2 * time.Minute, true}},
		"a date, of a proxy's":   {503, map[string]string{"Date": now, "Retry-After": "Fri, 01 Jan 2010 00:02:00 GMT"}, "", pause{2 * time.Minute, true}},
		"the limit of an hour":   {403, map[string]string{"Date": now, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1262304060"}, "", pause{61 * time.Second, true}},
		"a limit without a time": {429, nil, "", pause{secondaryWait, true}},
		"a limit in words":       {403, nil, "You have exceeded a secondary rate limit", pause{secondaryWait, true}},
		"no right":               {403, map[string]string{"X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "1262304060"}, "Must have admin rights", pause{}},
		"not there":              {404, map[string]string{"Retry-After": "7"}, "", pause{}},
	} {
		header := http.Header{}
		for key, value := range test.header {
			header.Set(key, value)
		}
		after, limited := limit(&github.ErrorResponse{Response: &http.Response{StatusCode: test.status, Header: header}, Message: test.message})
		if diff := cmp.Diff(test.want, pause{after, limited}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
