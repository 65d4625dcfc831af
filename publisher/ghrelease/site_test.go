package ghrelease_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// A site is a repository in some state, and the folder that is to be published into it.
type site struct {
	t      *testing.T
	server *ghtest.Server
	store  *ghrelease.Store
	folder *publisher.Folder
	dir    string
}

const tag = "v1.1.0-runtime"

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// draft makes a draft as a person would, or as an earlier run did.
func (s *site) draft(notes string) publisher.Release {
	made, err := s.store.Create(s.t.Context(), publisher.Draft{Tag: tag, Title: "By hand", Notes: notes})
	s.must(err)
	return made
}

const ours = "<!-- made by llcuda-farm -->"

// put uploads files of the folder.
func (s *site) put(to publisher.Release, names ...string) {
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(s.dir, name))
		s.must(err)
		s.upload(to, name, data)
	}
}

func (s *site) upload(to publisher.Release, name string, data []byte) {
	_, err := s.store.Upload(s.t.Context(), to, contentOf(name, data))
	s.must(err)
}

// starter begins an upload that never ends.
func (s *site) starter(to publisher.Release, name string) {
	s.server.Fail(ghtest.Fault{On: ghtest.Upload, Name: name, At: ghtest.Middle})
	if _, err := s.store.Upload(s.t.Context(), to, contentOf(name, []byte("half of it"))); err == nil {
		s.t.Fatal("it ended")
	}
}

func (s *site) all() []string {
	var names []string
	for _, file := range s.folder.Files {
		names = append(names, file.Name)
	}
	return names
}

func (s *site) publish(to publisher.Release) {
	_, err := s.store.Promote(s.t.Context(), to, publisher.Draft{}, publisher.LatestTrue)
	s.must(err)
}

const bundle = "llcuda-bins-sm75.tar.gz"
