package ghrelease

import (
	"net/url"
	"testing"
)

func TestUploadsBeside(t *testing.T) {
	for _, test := range []struct {
		api, upload string
		want        bool
	}{
		{"https://api.github.com/", "https://uploads.github.com/repos/a/b/releases/1/assets", true},
		{"https://api.octo.ghe.com/", "https://uploads.octo.ghe.com/x", true},
		{"https://git.example.com/api/v3/", "https://git.example.com/api/uploads/x", true},
		{"https://api.github.com/", "http://uploads.github.com/x", false},
		{"https://api.github.com/", "https://uploads.github.com.evil.example/x", false},
		{"https://api.github.com/", "https://uploads.evil.example/x", false},
		{"https://api.github.com/", "https://evil.github.com/x", false},
		{"https://git.example.com/api/v3/", "https://git.example.com:8443/x", false},
		{"https://git.example.com/api/v3/", "https://uploads.git.example.com/x", false},
		{"https://api.github.com/", "", false},
	} {
		api, err := url.Parse(test.api)
		if err != nil {
			t.Fatal(err)
		}
		upload, err := url.Parse(test.upload)
		if err != nil {
			t.Fatal(err)
		}
		if got := uploadsBeside(api, upload); got != test.want {
			t.Errorf("%s beside %s: %v", test.upload, test.api, got)
		}
	}
}
