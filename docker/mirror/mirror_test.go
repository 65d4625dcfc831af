package mirror

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFromEnv(t *testing.T) {
	type all struct {
		Debian    []string
		NPM, PyPI string
	}
	for name, test := range map[string]struct {
		env  map[string]string
		want all
	}{
		"none": {nil, all{[]string{Debian}, NPM, PyPI}},
		"each": {map[string]string{"LLCUDA_DEBIAN_MIRROR": "http://a/debian/", "npm_config_registry": "http://b/npm/", "PIP_INDEX_URL": "http://c/simple/"},
			all{[]string{"http://a/debian"}, "http://b/npm", "http://c/simple/"}},
		"several":    {map[string]string{"LLCUDA_DEBIAN_MIRROR": " http://a/debian  http://b/ "}, all{[]string{"http://a/debian", "http://b"}, NPM, PyPI}},
		"blank":      {map[string]string{"LLCUDA_DEBIAN_MIRROR": " "}, all{[]string{Debian}, NPM, PyPI}},
		"upper case": {map[string]string{"NPM_CONFIG_REGISTRY": "http://b"}, all{[]string{Debian}, "http://b", PyPI}},
	} {
		getenv := func(name string) string { return test.env[name] }
		if diff := cmp.Diff(test.want, all{DebianFromEnv(getenv), NPMFromEnv(getenv), PyPIFromEnv(getenv)}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
