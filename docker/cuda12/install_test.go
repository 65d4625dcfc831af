package cuda12

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Where no file is given, the script finds a wheel as pip does: where the page of the index says, in whatever form its
// links are; without an index, where the public one has its files.
func TestWheelURL(t *testing.T) {
	if _, err := os.Stat("/usr/lib/apt/apt-helper"); err != nil {
		t.Skip("install.sh runs on Debian alone: ", err)
	}
	const wheel = "nvidia_nvvm-13.3.73-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl"
	const script = `set -euo pipefail
eval "$(sed -n '/^die()/p; /^download()/,/^}/p; /^wheel_url()/,/^}/p' install.sh)"
work=$1 index=$2
url=$(wheel_url nvidia-nvvm "packages/f3/e7/00/$3")
echo "$url"`
	for name, test := range map[string]struct{ link, want string }{
		"relative":                  {`<a href="../../+f/WHEEL#sha256=00">`, "HOST/root/+f/WHEEL"},
		"beside the page":           {`<a href="WHEEL" data-requires-python="&gt;=3">`, "HOST/root/simple/nvidia-nvvm/WHEEL"},
		"of the host, in no quotes": {`<a href=/files/WHEEL#sha256=00>`, "HOST/files/WHEEL"},
		"of another host":           {`<a class=x href='https://files.example.org/WHEEL'>`, "https://files.example.org/WHEEL"},
		"another platform":          {`<a href="nvidia_nvvm-13.3.73-py3-none-manylinux2014_aarch64.whl">`, "has no WHEEL"},
		"no index":                  {"", "https://files.pythonhosted.org/packages/f3/e7/00/WHEEL"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/root/simple/nvidia-nvvm/" {
					http.NotFound(w, r)
					return
				}
				fmt.Fprintf(w, "<a href=\"../../+f/nvidia_nvvm-13.3.33.whl\">x</a> %s%s</a>\n", strings.ReplaceAll(test.link, "WHEEL", wheel), wheel)
			}))
			defer server.Close()
			index := server.URL + "/root/simple"
			if test.link == "" {
				index = ""
			}
			out, err := exec.CommandContext(t.Context(), "bash", "-c", script, "-", t.TempDir(), index, wheel).CombinedOutput()
			want := strings.NewReplacer("HOST", server.URL, "WHEEL", wheel).Replace(test.want)
			if failed := strings.HasPrefix(test.want, "has no"); (err != nil) != failed || !strings.HasSuffix(strings.TrimSpace(string(out)), want) {
				t.Errorf("%v, want %s:\n%s", err, want, out)
			}
		})
	}
}
