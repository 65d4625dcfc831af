package bundler_test

import (
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/manifests"
)

// benchTree is what the benchmarks pack: the bundle that LLCUDA_BENCH_TREE names, or a made one.
func benchTree(b *testing.B) (dir string, r bundler.Rules) {
	b.Helper()
	const size = 32 << 20
	if dir := os.Getenv("LLCUDA_BENCH_TREE"); dir != "" {
		r := rules(75)
		r.BuildPaths = []string{"/src/", "/build/"}
		return dir, r
	}
	return mixedTree(b, size), rules(75)
}

// baseline compresses the tar with one thread of an ordinary compressor, and says how long that
// takes and what comes out. It is measured beside every benchmark, so that the ratios hold on any
// machine.
func baseline(b *testing.B, tarFile string, newWriter func(io.Writer) (io.WriteCloser, error)) (wall time.Duration, size int64) {
	b.Helper()
	f, err := os.Open(tarFile)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	counted := &counter{}
	w, err := newWriter(counted)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if _, err := io.Copy(w, f); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start), counted.n
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// benchmarkPack packs the format alone: the other twin is there already.
func benchmarkPack(b *testing.B, format string, newWriter func(io.Writer) (io.WriteCloser, error)) {
	dir, r := benchTree(b)
	fsys := open(b, dir)
	meta := describe(b, fsys, r)
	out := b.TempDir()
	var artifact manifests.Artifact
	packTwin := func() {
		artifacts, err := bundler.Pack(context.Background(), fsys, meta, out, bundler.PackOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for _, a := range artifacts {
			if a.Format == format {
				artifact = a
			}
		}
	}
	packTwin()
	tarFile := filepath.Join(b.TempDir(), "tar")
	if err := os.WriteFile(tarFile, unpackTar(b, filepath.Join(out, artifact.Name)), 0o644); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(artifact.Tar.Size)
	for b.Loop() {
		if err := os.Remove(filepath.Join(out, artifact.Name)); err != nil {
			b.Fatal(err)
		}
		packTwin()
	}
	mine := b.Elapsed() / time.Duration(b.N)
	b.StopTimer()
	wall, size := baseline(b, tarFile, newWriter)
	b.ReportMetric(wall.Seconds()/mine.Seconds(), "x-baseline-speed")
	b.ReportMetric(float64(artifact.Size)/float64(size), "x-baseline-size")
	b.ReportMetric(float64(artifact.Size)/1e6, "MB-packed")
}

// The baseline is compress/gzip at its best level.
func BenchmarkPackGzip(b *testing.B) {
	benchmarkPack(b, manifests.FormatTarGz, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, gzip.BestCompression) })
}

// The baseline is zstd's default level with its default window.
func BenchmarkPackZstd(b *testing.B) {
	benchmarkPack(b, manifests.FormatTarZst, func(w io.Writer) (io.WriteCloser, error) {
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	})
}

// BenchmarkPackAgain is a second run over a dist that is complete.
func BenchmarkPackAgain(b *testing.B) {
	dir, r := benchTree(b)
	fsys := open(b, dir)
	meta := describe(b, fsys, r)
	out := b.TempDir()
	for b.Loop() {
		if _, err := bundler.Pack(context.Background(), fsys, meta, out, bundler.PackOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAudit(b *testing.B) {
	dir, r := benchTree(b)
	fsys := open(b, dir)
	for b.Loop() {
		if _, err := bundler.Audit(fsys, r); err != nil {
			b.Fatal(err)
		}
	}
}
