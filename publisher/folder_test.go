package publisher_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/publisher"
)

func TestOpenFolder(t *testing.T) {
	const bundle = "llcuda-bins-sm75.tar.gz"
	write := func(t *testing.T, dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(t *testing.T, dir, name string) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name  string
		edit  func(*testing.T, *fetchtest.Release)
		wrong string
	}{
		{"as it is", func(*testing.T, *fetchtest.Release) {}, ""},
		{"logs and files on their way beside it", func(t *testing.T, r *fetchtest.Release) {
			write(t, r.Dir, ".manifest.json.1.partial", "x")
			if err := os.Mkdir(filepath.Join(r.Dir, "logs"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"no sums", func(t *testing.T, r *fetchtest.Release) { remove(t, r.Dir, manifests.SumsName) }, manifests.SumsName},
		{"a file is missing", func(t *testing.T, r *fetchtest.Release) { remove(t, r.Dir, bundle) }, bundle},
		{"a file is another one", func(t *testing.T, r *fetchtest.Release) { write(t, r.Dir, bundle, "x") }, bundle + ": sha256 is"},
		{"a file more", func(t *testing.T, r *fetchtest.Release) { write(t, r.Dir, "more", "x") }, "more: SHA256SUMS does not name it"},
		{"a file more, with a sum", func(t *testing.T, r *fetchtest.Release) { write(t, r.Dir, "more", "x"); r.Sum(t) }, "more: manifest.json does not name it"},
		{"a sum less", func(t *testing.T, r *fetchtest.Release) {
			sums := r.Read(t, manifests.SumsName)
			lines := slices.DeleteFunc(strings.SplitAfter(string(sums), "\n"), func(line string) bool { return strings.Contains(line, bundle) })
			write(t, r.Dir, manifests.SumsName, strings.Join(lines, ""))
		}, bundle + ": SHA256SUMS does not name it"},
		{"another manifest", func(t *testing.T, r *fetchtest.Release) { write(t, r.Dir, bundle, "x"); r.Sum(t) }, bundle + ": manifest.json has another sha256 than SHA256SUMS"},
		{"no manifest", func(t *testing.T, r *fetchtest.Release) { remove(t, r.Dir, manifests.ManifestName); r.Sum(t) }, manifests.ManifestName},
	} {
		t.Run(test.name, func(t *testing.T) {
			release := fetchtest.New(t, fetchtest.Options{})
			test.edit(t, release)
			folder, err := publisher.OpenFolder(t.Context(), release.Dir)
			var wrong *publisher.FolderError
			switch {
			case test.wrong != "":
				if !errors.As(err, &wrong) || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("got %v, want %q", err, test.wrong)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			if n := len(folder.Files); n != 7 || folder.Files[n-1].Name != manifests.SumsName || folder.Files[n-2].Name != manifests.SignatureName {
				t.Errorf("files %+v", folder.Files)
			}
			if !folder.Signed() || folder.Release.Release != "v1.1.0-runtime" {
				t.Errorf("folder %+v", folder)
			}
		})
	}
	release := fetchtest.New(t, fetchtest.Options{})
	remove(t, release.Dir, manifests.SignatureName)
	if folder, err := publisher.OpenFolder(t.Context(), release.Dir); err != nil || folder.Signed() || len(folder.Files) != 6 {
		t.Errorf("unsigned: %+v, %v", folder, err)
	}
}

// An inspection finds everything that is wrong at once, and names the document of each finding.
func TestInspectFolder(t *testing.T) {
	const bundle, twin = "llcuda-bins-sm75.tar.gz", "llcuda-bins-sm75.tar.zst"
	release := fetchtest.New(t, fetchtest.Options{})
	named := func(findings []publisher.Finding) (list []string) {
		for _, f := range findings {
			list = append(list, f.Rule+" "+f.Name)
		}
		slices.Sort(list)
		return list
	}
	inspect := func() (sums, manifest []string, i *publisher.Inspection) {
		t.Helper()
		i, err := publisher.InspectFolder(t.Context(), release.Dir)
		if err != nil {
			t.Fatal(err)
		}
		return named(i.Sums), named(i.Manifest), i
	}
	if sums, manifest, i := inspect(); len(sums)+len(manifest) > 0 || !i.Intact(release.Asset(t, bundle)) {
		t.Errorf("as it is: %q, %q", sums, manifest)
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(release.Dir, bundle), []byte("x"), 0o644),
		os.Remove(filepath.Join(release.Dir, twin)),
		os.Mkdir(filepath.Join(release.Dir, "logs"), 0o755),
		os.WriteFile(filepath.Join(release.Dir, "more"), nil, 0o644),
		os.WriteFile(filepath.Join(release.Dir, ".hidden"), nil, 0o644),
		os.WriteFile(filepath.Join(release.Dir, manifests.ManifestName), append(release.Read(t, manifests.ManifestName), '\n'), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	sums, manifest, i := inspect()
	if diff := cmp.Diff([]string{"changed " + bundle, "changed " + manifests.ManifestName, "extra more", "missing " + twin}, sums); diff != "" {
		t.Errorf("by SHA256SUMS (-want +got):\n%s", diff)
	}
	if len(manifest) != 1 || !strings.HasPrefix(manifest[0], "format ") {
		t.Errorf("by the manifest: %q", manifest)
	}
	if i.Intact(release.Asset(t, bundle)) || i.Intact(release.Asset(t, twin)) {
		t.Error("what was changed or removed is intact")
	}
	if err := os.Remove(filepath.Join(release.Dir, manifests.SumsName)); err != nil {
		t.Fatal(err)
	}
	if sums, _, i := inspect(); !slices.Equal(sums, []string{"missing " + manifests.SumsName}) || len(i.Folder.Files) > 0 {
		t.Errorf("without sums: %q", sums)
	}
}
