package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenCache(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the test gives folders to other users, which takes root")
	}
	const somebody = 65534
	for _, test := range []struct {
		name    string
		prepare func(dir string) error // of the folder that --cache names
		env     map[string]string      // if set, --cache is not passed
		want    string                 // what the error says; none if empty
	}{
		{name: "new"},
		{name: "own", prepare: func(dir string) error { return os.Mkdir(dir, 0o700) }},
		{name: "own group", prepare: func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o775)) }},
		{name: "foreign", prepare: func(dir string) error { return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, somebody, somebody)) }, want: "belongs to user 65534"},
		{name: "foreign inside", prepare: func(dir string) error {
			sources := filepath.Join(dir, "sources")
			return errors.Join(os.MkdirAll(sources, 0o755), os.Chown(sources, somebody, 0))
		}, want: "sources belongs to user 65534"},
		{name: "foreign group", prepare: func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 0, somebody), os.Chmod(dir, 0o775))
		}, want: "can be changed by other users"},
		{name: "everybody's", prepare: func(dir string) error { return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777|os.ModeSticky)) }, want: "can be changed by other users"},
		{name: "link to a foreign one", prepare: func(dir string) error {
			return errors.Join(os.Mkdir(dir+".x", 0o755), os.Chown(dir+".x", somebody, 0), os.Symlink(dir+".x", dir))
		}, want: "belongs to user"},
		{name: "file", prepare: func(dir string) error { return os.WriteFile(dir, nil, 0o644) }, want: "not a directory"},
		{name: "no home", env: map[string]string{"HOME": "", "XDG_CACHE_HOME": ""}, want: "$HOME"},
		{name: "relative", env: map[string]string{"XDG_CACHE_HOME": "relative"}, want: "relative"},
		{name: "relative home", env: map[string]string{"HOME": "here", "XDG_CACHE_HOME": ""}, want: "not an absolute path"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cache")
			if test.prepare != nil {
				if err := test.prepare(dir); err != nil {
					t.Fatal(err)
				}
			}
			given := dir
			for name, value := range test.env {
				t.Setenv(name, value)
				given = ""
			}
			got, err := openCache(given)
			if test.want == "" {
				if err != nil || got != dir {
					t.Errorf("got %s, %v", got, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(hintFor(err), "--cache DIR") || exitCode(t.Context(), err) != exitUsage {
				t.Errorf("got %s, %v, hint %q; want %q and a hint to --cache", got, err, hintFor(err), test.want)
			}
		})
	}
}
