package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/npm"
)

// writeProject writes files by their paths; one that begins with "#!" is executable.
func writeProject(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// installVite installs the real Vite as the stage does, into a folder under which projects find it.
func installVite(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("needs npm to build with: ", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.ReadFile("testdata/vite/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	packages, err := npm.Fetch(t.Context(), lock, filepath.Join(cache, "llcuda", "builder"), npm.OptionsFromEnv(os.Getenv))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, file := range []string{"testdata/vite/package.json", filepath.Join(packages.Dir, "package-lock.json")} {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--offline", "--no-audit", "--no-fund", "--logs-max", "0", "--cache", packages.Dir)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("installing Vite: %v\n%s", err, out)
	}
	return dir
}

// Whatever form upstream's configuration has, the real Vite follows it and lists the licenses of what went in.
func TestWebUIBuild(t *testing.T) {
	script, err := filepath.Abs("stages/ui/build.sh")
	if err != nil {
		t.Fatal(err)
	}
	const (
		rollup   = "build: { minify: false, rollupOptions: { input: 'main.js', output: { entryFileNames: 'out.js' } } }"
		config   = "{ " + rollup + ", plugins: [{ name: 'mark', transform: (code, id) => id.endsWith('main.js') ? code + '\\nconsole.log(\"MARK\")' : null }] }"
		licences = "\nused 1.0.0\n==========\n\nLicence of used\n"
	)
	vite := installVite(t)
	for _, test := range []struct {
		name    string
		script  string
		files   map[string]string
		unmade  bool   // upstream's configuration makes no mark
		problem string // of a build that fails
	}{
		{name: "an object", files: map[string]string{"vite.config.ts": "import { defineConfig } from 'vite';\nconst one: number = 1;\nexport default defineConfig(" + config + ");\n"}},
		{name: "a function", files: map[string]string{"vite.config.ts": "export default ({ mode }: { mode: string }) => mode === 'production' ? (" + config + ") : {};\n"}},
		{name: "an async function", files: map[string]string{"vite.config.mts": "export default async ({ command }) => { if (command !== 'build') throw new Error(command); return " + config + "; };\n"}},
		{name: "a promise", files: map[string]string{"vite.config.mjs": "export default Promise.resolve(" + config + ");\n"}},
		{name: "CommonJS", files: map[string]string{"vite.config.cjs": "module.exports = " + config + ";\n"}},
		{name: "no plugins", files: map[string]string{"vite.config.js": "export default { " + rollup + " };\n"}, unmade: true},
		{name: "plugins within plugins", files: map[string]string{"vite.config.js": "export default { ..." + config + ", plugins: [false, [Promise.resolve(" + config + ".plugins)]] };\n"}},
		{name: "no configuration", files: map[string]string{"index.html": `<script type="module" src="/main.js"></script>`}, unmade: true},
		{name: "two configurations", files: map[string]string{"vite.config.ts": "throw new Error('the second');\n", "vite.config.js": "export default " + config + ";\n"}},
		{name: "the script names it", script: "vite build --config vite.config.ts", files: map[string]string{"vite.config.ts": "export default " + config + ";\n"}},
		{name: "the script goes on after Vite", script: "vite build && ./scripts/post-build.sh", files: map[string]string{
			"vite.config.ts": "export default " + config + ";\n", "scripts/post-build.sh": "#!/bin/sh\n[ $# = 0 ]\n"}},
		{name: "the script names another", script: "vite build --config other.mjs", problem: "did not use vite.config.ts",
			files: map[string]string{"vite.config.ts": "export default {};\n", "other.mjs": "export default " + config + ";\n"}},
		{name: "it does not build", files: map[string]string{"vite.config.ts": "throw new Error('not today');\nexport default {};\n"}, problem: "not today"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp(vite, "project")
			if err != nil {
				t.Fatal(err)
			}
			if test.script == "" {
				test.script = "vite build"
			}
			writeProject(t, dir, test.files)
			writeProject(t, dir, map[string]string{
				"package.json": `{"name": "ui", "type": "module", "scripts": {"build": "` + test.script + `"}}`,
				"main.js":      "import { used } from 'used';\nconsole.log(used);\n",
				// Only what goes in is listed.
				"node_modules/used/package.json":   `{"name": "used", "version": "1.0.0", "type": "module", "main": "index.js"}`,
				"node_modules/used/index.js":       "export const used = 'USED';\n",
				"node_modules/used/LICENSE":        "Licence of used\n",
				"node_modules/unused/package.json": `{"name": "unused", "version": "1.0.0", "license": "MIT"}`,
			})
			list := filepath.Join(dir, "licences.txt")
			cmd := exec.CommandContext(t.Context(), "sh", script)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "LICENCES_OUT="+list)
			out, err := cmd.CombinedOutput()
			if test.problem != "" {
				if err == nil || !strings.Contains(string(out), test.problem) {
					t.Fatalf("%v, want a failure with %q:\n%s", err, test.problem, out)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			built, err := filepath.Glob(filepath.Join(dir, "dist", "*.js"))
			if more, _ := filepath.Glob(filepath.Join(dir, "dist", "assets", "*.js")); err == nil {
				built = append(built, more...)
			}
			if len(built) != 1 {
				t.Fatalf("it made %q:\n%s", built, out)
			}
			text, err := os.ReadFile(built[0])
			if err != nil || !strings.Contains(string(text), "USED") || strings.Contains(string(text), "MARK") == test.unmade {
				t.Errorf("%v; it made\n%s", err, text)
			}
			got, err := os.ReadFile(list)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(licences, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
