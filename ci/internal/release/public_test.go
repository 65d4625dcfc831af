package release

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// What is read back is taken if it is what was published, also where it comes late, and refused if
// it is not.
func TestReadBack(t *testing.T) {
	data := strings.Repeat("0123456789", 1000)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s has a token", r.URL)
		}
		body := data
		switch strings.TrimPrefix(r.URL.Path, "/o/r/releases/download/v1/") {
		case "right":
		case "late":
			if asked.Add(1) < 4 {
				http.NotFound(w, r)
				return
			}
		case "other":
			body = strings.Repeat("9876543210", 1000)
		case "longer":
			body = data + "more"
		case "shorter":
			body = data[1:]
		default:
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	public := Public{Folder: server.URL + "/o/r/releases/download/v1/", Patience: 2 * time.Second}
	for name, want := range map[string]string{
		"right": "", "late": "", "other": "is not what was signed", "longer": "is not what was signed", "shorter": "is not what was signed", "never": "is the repository private",
	} {
		var last atomic.Int64
		file := publisher.File{Name: name, Size: int64(len(data)), SHA256: fetchtest.SHA256([]byte(data))}
		err := public.ReadBack(t.Context(), []publisher.File{file}, t.TempDir(), func(p publisher.Progress) { last.Store(p.Done) })
		switch {
		case want == "" && (err != nil || last.Load() != file.Size):
			t.Errorf("%s: %v after %d bytes", name, err, last.Load())
		case want != "" && (!isAs[*failure.Refusal](err) || !strings.Contains(hintOf(err), want)):
			t.Errorf("%s: got %v, hint %q", name, err, hintOf(err))
		}
	}
	// Without patience, as for a release that is not known to be there, the first answer counts.
	public.Patience = 0
	asked.Store(0)
	file := publisher.File{Name: "late", Size: int64(len(data)), SHA256: fetchtest.SHA256([]byte(data))}
	if err := public.ReadBack(t.Context(), []publisher.File{file}, t.TempDir(), func(publisher.Progress) {}); err == nil || isAs[*failure.Refusal](err) || asked.Load() != 1 {
		t.Errorf("without patience: %v after %d requests", err, asked.Load())
	}
}
