package ghrelease_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/publisher"
)

// contentOf is a file of given bytes.
func contentOf(name string, data []byte) publisher.Content {
	return publisher.Content{Name: name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}

// checkStore checks that a store does what the comments of publisher.Store say, which publisher relies on. newStore makes
// one on an empty place each time.
func checkStore(t *testing.T, newStore func(*testing.T) publisher.Store) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wantIs := func(t *testing.T, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	draft := publisher.Draft{Tag: "v1", Title: "One", Notes: "Notes with \"quotes\" & <b>"}

	t.Run("a draft is found by its tag and read by its number", func(t *testing.T) {
		s := newStore(t)
		found, err := s.Find(t.Context(), "v1")
		must(t, err)
		if len(found) != 0 {
			t.Fatalf("an empty place has %v", found)
		}
		made, err := s.Create(t.Context(), draft)
		must(t, err)
		if made.ID == 0 || !made.Draft || made.Tag != "v1" || made.Notes != draft.Notes || made.URL == "" || len(made.Assets) != 0 {
			t.Errorf("made %+v", made)
		}
		found, err = s.Find(t.Context(), "v1")
		must(t, err)
		if len(found) != 1 || found[0].ID != made.ID || !found[0].Draft || found[0].Notes != draft.Notes {
			t.Errorf("found %+v", found)
		}
		if found, err = s.Find(t.Context(), "v"); err != nil || len(found) != 0 {
			t.Errorf("another tag has %v, %v", found, err)
		}
	})

	t.Run("two drafts may share a tag", func(t *testing.T) {
		s := newStore(t)
		first, err := s.Create(t.Context(), draft)
		must(t, err)
		second, err := s.Create(t.Context(), draft)
		must(t, err)
		found, err := s.Find(t.Context(), "v1")
		must(t, err)
		if len(found) != 2 || second.ID <= first.ID {
			t.Fatalf("found %+v", found)
		}
		must(t, s.Discard(t.Context(), second))
		wantIs(t, s.Discard(t.Context(), second), publisher.ErrGone)
		_, err = s.Read(t.Context(), second.ID)
		wantIs(t, err, publisher.ErrGone)
		_, err = s.Upload(t.Context(), second, contentOf("a", []byte("a")))
		wantIs(t, err, publisher.ErrGone)
		_, err = s.Promote(t.Context(), second, draft, publisher.LatestTrue)
		wantIs(t, err, publisher.ErrGone)
	})

	t.Run("what is uploaded is there, once", func(t *testing.T) {
		s := newStore(t)
		made, err := s.Create(t.Context(), draft)
		must(t, err)
		data := bytes.Repeat([]byte("0123456789"), 50_000)
		sum := sha256.Sum256(data)
		var told []int64
		content := contentOf("llcuda-bins_1.tar.gz", data)
		content.Sent = func(n int64) { told = append(told, n) }
		asset, err := s.Upload(t.Context(), made, content)
		must(t, err)
		if asset.ID == 0 || asset.Name != content.Name || asset.Size != content.Size || !asset.Whole {
			t.Errorf("uploaded %+v", asset)
		}
		if digest := hex.EncodeToString(sum[:]); asset.SHA256 != digest && asset.SHA256 != "" {
			t.Errorf("digest %s, want %s", asset.SHA256, digest)
		}
		if len(told) == 0 || !slices.IsSorted(told) || told[len(told)-1] != content.Size {
			t.Errorf("told of %d of %d bytes", told, content.Size)
		}
		_, err = s.Upload(t.Context(), made, contentOf(content.Name, []byte("other")))
		wantIs(t, err, publisher.ErrExists)
		now, err := s.Read(t.Context(), made.ID)
		must(t, err)
		if len(now.Assets) != 1 || now.Assets[0].ID != asset.ID || now.Assets[0].SHA256 != asset.SHA256 || !now.Assets[0].Whole {
			t.Errorf("reads %+v", now.Assets)
		}
		body, err := s.Download(t.Context(), asset)
		must(t, err)
		defer body.Close()
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
			t.Errorf("downloaded %d bytes, %v", len(got), err)
		}
		must(t, s.Delete(t.Context(), asset))
		wantIs(t, s.Delete(t.Context(), asset), publisher.ErrGone)
		_, err = s.Download(t.Context(), asset)
		wantIs(t, err, publisher.ErrGone)
	})

	t.Run("a release with many assets is read whole", func(t *testing.T) {
		s := newStore(t)
		made, err := s.Create(t.Context(), draft)
		must(t, err)
		const many = 7
		for i := range many {
			_, err := s.Upload(t.Context(), made, contentOf(strings.Repeat("a", i+1), []byte("x")))
			must(t, err)
		}
		if now, err := s.Read(t.Context(), made.ID); err != nil || len(now.Assets) != many {
			t.Errorf("reads %d assets, %v", len(now.Assets), err)
		}
	})

	t.Run("publishing is once", func(t *testing.T) {
		s := newStore(t)
		first, err := s.Create(t.Context(), draft)
		must(t, err)
		second, err := s.Create(t.Context(), draft)
		must(t, err)
		public, err := s.Promote(t.Context(), first, draft, publisher.LatestTrue)
		must(t, err)
		if public.Draft || public.ID != first.ID || public.Tag != "v1" {
			t.Errorf("published %+v", public)
		}
		if _, err := s.Promote(t.Context(), first, draft, publisher.LatestTrue); err != nil {
			t.Errorf("publishing it again: %v", err)
		}
		_, err = s.Promote(t.Context(), second, draft, publisher.LatestTrue)
		wantIs(t, err, publisher.ErrExists)
		found, err := s.Find(t.Context(), "v1")
		must(t, err)
		if len(found) != 2 || found[0].Draft == found[1].Draft {
			t.Errorf("found %+v", found)
		}
	})
}
