package bundler_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

func TestPackCancelled(t *testing.T) {
	fsys := open(t, bigTree(t, 8<<20))
	meta := describe(t, fsys, rules(75))
	out := filepath.Join(t.TempDir(), "dist")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calls atomic.Int32
	_, err := bundler.Pack(ctx, fsys, meta, out, bundler.PackOptions{Progress: func(at measure.Progress) {
		if calls.Add(1); at.Done > at.Total/4 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	if calls.Load() == 0 {
		t.Error("it was cancelled before it began")
	}
	if n := names(t, out); n != nil {
		t.Errorf("it left %v", n)
	}
}

func TestPackProgress(t *testing.T) {
	fsys := open(t, newTree(t, "sm75.fatbin"))
	var last, all int64
	artifacts, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(75)), t.TempDir(), bundler.PackOptions{Progress: func(at measure.Progress) {
		if at.Done < last {
			t.Errorf("progress went back from %d to %d", last, at.Done)
		}
		last, all = at.Done, at.Total
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 * artifacts[0].Tar.Size; last != want || all != want {
		t.Errorf("progress ended at %d of %d, want %d", last, all, want)
	}
}

// TestPackDiskFull packs onto a file system that is too small, a tmpfs of this process's own.
func TestPackDiskFull(t *testing.T) {
	out := t.TempDir()
	if err := syscall.Mount("tmpfs", out, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("this needs root and a kernel that lets it mount: %v", err)
	}
	defer syscall.Unmount(out, syscall.MNT_DETACH)
	kept := filepath.Join(out, "llcuda-bins-sm75.tar.gz")
	if err := os.WriteFile(kept, []byte("an older archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	fsys := open(t, bigTree(t, 4<<20))
	_, err := bundler.Pack(context.Background(), fsys, describe(t, fsys, rules(75)), out, bundler.PackOptions{})
	var full *bundler.SpaceError
	if !errors.As(err, &full) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error: %v", err)
	}
	if full.Needed < 4<<20 || !strings.HasPrefix(full.Path, out) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error says too little: %v", err)
	}
	if diff := cmp.Diff([]string{"llcuda-bins-sm75.tar.gz"}, names(t, out)); diff != "" {
		t.Errorf("partial files stayed: %s", diff)
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != "an older archive" {
		t.Errorf("the older archive is gone: %q, %v", data, err)
	}
}
