package npm

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// npm itself installs from the folder, and asks no registry.
func TestOfflineInstall(t *testing.T) {
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("needs npm to install with: ", err)
	}
	for _, version := range []int{2, 3} {
		r := newRegistry(t)
		plain, scoped := r.publish(t, "plain", "1.2.3"), r.publish(t, "@scope/part", "4.5.6")
		aliased, bare := r.publish(t, "real-name", "7.8.9"), r.publish(t, "bare", "0.1.0")
		tagged, other := r.publish(t, "tagged", "2.0.0"), pack(t, "native-other", "1.0.0")
		project := map[string]any{
			"name": "ui", "version": "1.0.0",
			"dependencies":         map[string]string{"plain": "^1.0.0", "@scope/part": "4.5.6", "alias": "npm:real-name@7.8.9", "bare": "*", "tagged": "latest"},
			"optionalDependencies": map[string]string{"native-other": "1.0.0"},
		}
		lock := lockOf(t, version, packages{
			"":                          project,
			"node_modules/plain":        plain.entry(),
			"node_modules/@scope/part":  scoped.entry("license", "MIT"),
			"node_modules/alias":        aliased.entry("name", "real-name"),
			"node_modules/bare":         without(bare.entry(), "resolved"),
			"node_modules/tagged":       tagged.entry(),
			"node_modules/native-other": other.entry("optional", true, "os", []string{"aix"}),
		})
		fetched, err := Fetch(t.Context(), lock, t.TempDir(), r.options())
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		manifest, err := json.Marshal(project)
		if err != nil {
			t.Fatal(err)
		}
		filled, err := os.ReadFile(filepath.Join(fetched.Dir, "package-lock.json"))
		if err != nil {
			t.Fatal(err)
		}

		// Without the folder's cache the same command fails: it is the cache that serves.
		if out, err := install(t, r.URL, t.TempDir(), manifest, filled); err == nil {
			t.Errorf("lock %d: npm needs no cache:\n%s", version, out)
		}
		dir, err := install(t, r.URL, fetched.Dir, manifest, filled)
		if err != nil {
			t.Fatalf("lock %d: %v\n%s", version, err, dir)
		}
		got := map[string]string{}
		for _, name := range []string{"plain", "@scope/part", "alias", "bare", "tagged", "native-other"} {
			text, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
			if err == nil {
				got[name] = string(text)
			}
		}
		if diff := cmp.Diff(map[string]string{
			"plain":       `{"name":"plain","version":"1.2.3"}`,
			"@scope/part": `{"name":"@scope/part","version":"4.5.6"}`,
			"alias":       `{"name":"real-name","version":"7.8.9"}`,
			"bare":        `{"name":"bare","version":"0.1.0"}`,
			"tagged":      `{"name":"tagged","version":"2.0.0"}`,
		}, got); diff != "" {
			t.Errorf("lock %d: installed (-want +got):\n%s", version, diff)
		}
	}
}

// install runs npm as the web UI's stage does, and returns the project's folder, or npm's output.
func install(t *testing.T, registry, cache string, manifest, lock []byte) (string, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string][]byte{"package.json": manifest, "package-lock.json": lock} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts")
	cmd.Dir = dir
	for _, variable := range os.Environ() { // the user's npm configuration is not the stage's
		if !strings.HasPrefix(strings.ToLower(variable), "npm_config_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "npm_config_cache="+cache, "npm_config_offline=true", "npm_config_logs_max=0",
		"npm_config_registry="+registry, "npm_config_userconfig="+filepath.Join(dir, "none"), "npm_config_globalconfig="+filepath.Join(dir, "none-global"),
		"npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		return string(out), err
	}
	return dir, nil
}
