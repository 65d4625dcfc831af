package cli

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/release"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher"
)

// opens counts how often each archive of a folder is opened while do runs.
func opens(t *testing.T, dir release.Dir, do func()) map[string]int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, string(dir), unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	do()
	counts := map[string]int{}
	events := make([]byte, 1<<20)
	n, err := unix.Read(fd, events)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Fatal(err)
	}
	for at := 0; at < n; {
		length := int(binary.NativeEndian.Uint32(events[at+12:]))
		name := strings.TrimRight(string(events[at+unix.SizeofInotifyEvent:at+unix.SizeofInotifyEvent+length]), "\x00")
		if manifests.IsArchive(name) {
			what := string(manifests.KindOf(name)) + strings.TrimPrefix(name, manifests.Stem(name))
			counts[what]++
		}
		at += unix.SizeofInotifyEvent + length
	}
	return counts
}

// What the packing of an archive said of it goes through to the manifest and to the signature: it
// is not read again for that. Each is hashed once where SHA256SUMS is checked; a bill of materials
// needs the files of one archive of a bundle.
func TestArchivesAreReadOnce(t *testing.T) {
	b := buildRelease(t)
	sign := func(known *release.Ledger) {
		os.Remove(b.dir.Path(manifests.SignatureName))
		if _, err := b.dir.Sign(t.Context(), release.SignOptions{Credential: b.as, Known: known}); err != nil {
			t.Error(err)
		}
	}
	for _, test := range []struct {
		what string
		do   func()
		want map[string]int
	}{
		{"building again", func() { b.ci(t, b.build...) }, map[string]int{}},
		{"describing", func() {
			if _, err := b.dir.Describe(t.Context(), b.ledger(t)); err != nil {
				t.Error(err)
			}
		}, map[string]int{}},
		{"signing", func() { sign(b.ledger(t)) }, map[string]int{"bundle.tar.gz": 1, "bundle.tar.zst": 2, "cudart.tar.gz": 1, "cudart.tar.zst": 1}},
		{"signing what nobody knows", func() { sign(nil) }, map[string]int{"bundle.tar.gz": 2, "bundle.tar.zst": 3, "cudart.tar.gz": 2, "cudart.tar.zst": 2}},
		{"verifying", func() {
			report, err := b.dir.Verify(t.Context(), b.checks(t))
			if err != nil || len(report.Findings) > 0 {
				t.Error(err, report.Findings)
			}
		}, map[string]int{"bundle.tar.gz": 2, "bundle.tar.zst": 2, "cudart.tar.gz": 2, "cudart.tar.zst": 2}},
	} {
		if diff := cmp.Diff(test.want, opens(t, b.dir, test.do)); diff != "" {
			t.Errorf("%s opens (-want +got):\n%s", test.what, diff)
		}
	}
}

// A ledger spares reading, and no check: what is not the file that was noted is read, and verify
// reads everything.
func TestKnownArchivesAreChecked(t *testing.T) {
	b := buildRelease(t)
	bundle := b.dir.Path(manifests.BundleName(matrix.Row{SM: 75}) + "." + manifests.FormatTarGz)
	right, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	described, err := b.dir.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(bundle)
	if err != nil {
		t.Fatal(err)
	}
	wrong := slices.Clone(right)
	wrong[len(wrong)/2] ^= 1
	if err := errors.Join(os.WriteFile(bundle, wrong, 0o644), os.Chtimes(bundle, time.Time{}, info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if _, err := b.dir.Describe(t.Context(), b.ledger(t)); !isAs[*failure.Refusal](err) || !strings.Contains(err.Error(), filepath.Base(bundle)) {
		t.Errorf("describing a changed archive: %v", err)
	}
	if _, err := b.dir.Sign(t.Context(), release.SignOptions{Credential: b.as, Known: b.ledger(t)}); !isAs[*failure.Refusal](err) {
		t.Errorf("signing a changed archive: %v", err)
	}
	report, err := b.dir.Verify(t.Context(), b.checks(t))
	if err != nil || !slices.ContainsFunc(report.Findings, func(f publisher.Finding) bool {
		return f.Name == filepath.Base(bundle) && f.Rule == publisher.RuleChanged
	}) {
		t.Errorf("verifying a changed archive: %v, %v", report.Findings, err)
	}

	// An entry about bytes other than those in SHA256SUMS is not trusted.
	if err := os.WriteFile(bundle, right, 0o644); err != nil {
		t.Fatal(err)
	}
	lie, _ := described.Asset(filepath.Base(bundle))
	lie.SHA256, lie.GPUs = strings.Repeat("0", 64), []string{"another"}
	if err := b.ledger(t).Note(bundle, "", lie); err != nil {
		t.Fatal(err)
	}
	if _, err := b.dir.Sign(t.Context(), release.SignOptions{Credential: b.as, Known: b.ledger(t)}); err != nil {
		t.Fatal(err)
	}
	signed, err := b.dir.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	got, _ := signed.Asset(lie.Name)
	want, _ := described.Asset(lie.Name)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the manifest after signing (-want +got):\n%s", diff)
	}

	// An archive of another release in the folder is read and refused, whatever the ledger says about
	// the others.
	other := buildRelease(t)
	for _, format := range manifests.Formats() {
		name := manifests.BundleName(matrix.Row{SM: 75}) + "." + format
		data, err := os.ReadFile(other.dir.Path(name))
		if err == nil {
			err = os.WriteFile(b.dir.Path(manifests.BundleName(matrix.Row{SM: 86})+"."+format), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.dir.Describe(t.Context(), b.ledger(t)); !isAs[*failure.Refusal](err) || !strings.Contains(err.Error(), manifests.BundleName(matrix.Row{SM: 86})) {
		t.Errorf("describing a folder with a stranger: %v", err)
	}
}
