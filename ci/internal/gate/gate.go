// Package gate checks bundles on a GPU before their release becomes public: every operation of the CUDA backend must
// compute what the CPU computes, and no bundle may be slower than that of the release before.
//
// The commands bench and check-ops of ci call it, on the machine with the GPU. In flow files: the archives of bundles and of
// their CUDA runtimes, models, and llama.cpp's test-backend-ops; out flow reports, and typed errors:
//
//	bundle, runtime ──Open──▶ Bundle ──CheckOps──▶ OpsReport
//	                          Bundles ──Bench──▶ manifests.Benchmark ──CheckSpeed──▶ a Refusal, if one is slower
//
// The package needs no engine, network or repository, writes only to the work folder, and never prints. A run
// without results counts as failed: without a GPU, test-backend-ops exits with 0 and llama-bench measures the CPU.
package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

// A Bundle is a bundle that was unpacked, with the CUDA libraries linked into its lib as the client links them.
type Bundle struct {
	Name     string // the archive's
	SHA256   string
	Metadata manifests.Metadata

	dir      string
	programs string // relative to dir
}

// OpenOptions say what a bundle is opened for.
type OpenOptions struct {
	// Runtime is the archive of the CUDA runtime; empty for the one that the manifest.json beside the bundle names.
	Runtime string
	// CPU is a machine without a GPU, on which the bundle needs no CUDA runtime.
	CPU bool
}

// Open unpacks a bundle's archive and its CUDA runtime into the folder work, which the caller removes.
func Open(ctx context.Context, work, file string, o OpenOptions) (*Bundle, error) {
	b := &Bundle{Name: filepath.Base(file)}
	var err error
	if b.dir, err = os.MkdirTemp(work, "bundle-"); err != nil {
		return nil, err
	}
	contents, digest, err := unpack(ctx, file, manifests.KindBundle, b.dir)
	if err != nil {
		return nil, err
	}
	metadata, findings := contents.Bundle(manifests.Stem(b.Name))
	if len(findings) > 0 {
		return nil, damaged(file, findings)
	}
	b.SHA256, b.Metadata = digest.SHA256, *metadata
	unpacked, err := variants.Open(b.dir)
	if err != nil {
		return nil, err
	}
	b.programs = unpacked.Programs
	if o.CPU {
		return b, nil
	}
	if o.Runtime == "" {
		if o.Runtime, err = runtimeBeside(file, b.SHA256); err != nil {
			return nil, err
		}
	}
	return b, b.link(ctx, work, o.Runtime)
}

// unpack unpacks an archive of a kind into a folder, and returns the archive's own digest.
func unpack(ctx context.Context, file string, kind manifests.Kind, into string) (*archive.Contents, manifests.Digest, error) {
	fail := func(err error) (*archive.Contents, manifests.Digest, error) {
		return nil, manifests.Digest{}, fmt.Errorf("unpacking %s: %w", file, err)
	}
	asset := manifests.Artifact{Name: filepath.Base(file), Kind: kind}
	if manifests.KindOf(asset.Name) != kind {
		return nil, manifests.Digest{}, failure.Input(fmt.Errorf("unpacking %s: its name is not that of a %s", file, kind), "give an archive of a release, under its own name")
	}
	asset.Format = strings.TrimPrefix(asset.Name, manifests.Stem(asset.Name)+".")
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, manifests.Digest{}, failure.Input(err, "give an archive of a release")
	}
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	root, err := os.OpenRoot(into)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	sum := archive.NewDigester(io.Discard)
	contents, err := archive.Read(ctx, io.TeeReader(f, sum), archive.Options{Format: asset.Format, Top: asset.Top(), Into: root})
	if err != nil {
		return fail(err)
	}
	if len(contents.Findings) > 0 {
		return nil, manifests.Digest{}, damaged(file, contents.Findings)
	}
	return contents, sum.Digest(), nil
}

func damaged(file string, findings []archive.Finding) error {
	return failure.Refuse(fmt.Errorf("unpacking %s: %s", file, findings[0]), "the archive is damaged: build it again, or take it from where it was built")
}

const giveRuntime = "give the CUDA runtime with --runtime, or keep the bundle in its release's folder, beside manifest.json and the runtime"

// runtimeBeside is the CUDA runtime that the manifest.json beside a bundle names for it.
func runtimeBeside(file, digest string) (string, error) {
	dir := filepath.Dir(file)
	f, err := os.Open(filepath.Join(dir, manifests.ManifestName))
	if err != nil {
		return "", failure.Input(fmt.Errorf("looking for the CUDA runtime of %s: %w", file, err), giveRuntime)
	}
	defer f.Close()
	release, err := manifests.Decode(f)
	if err != nil {
		return "", failure.Input(fmt.Errorf("looking for the CUDA runtime of %s: %w", file, err), giveRuntime)
	}
	bundle, ok := release.Asset(filepath.Base(file))
	if !ok || bundle.SHA256 != digest {
		return "", failure.Refuse(fmt.Errorf("looking for the CUDA runtime of %s: the %s beside it is of another bundle", file, manifests.ManifestName), giveRuntime)
	}
	if runtime, ok := release.Runtime(bundle); ok {
		for _, a := range release.Formats(runtime) {
			at := filepath.Join(dir, a.Name)
			if _, err := os.Stat(at); err == nil {
				return at, nil
			}
		}
	}
	return "", failure.Input(fmt.Errorf("looking for the CUDA runtime of %s: it is not beside it", file), giveRuntime)
}

// link unpacks a CUDA runtime, unless it was for another bundle, and links its libraries into the bundle's lib. A runtime's
// name has its digest in it, so that equal names are equal runtimes.
func (b *Bundle) link(ctx context.Context, work, file string) error {
	dir := filepath.Join(work, manifests.Stem(filepath.Base(file)))
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		_, _, err = unpack(ctx, file, manifests.KindCUDART, dir)
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	libraries, err := os.ReadDir(filepath.Join(dir, libDir))
	if err != nil {
		return fmt.Errorf("linking %s: %w", file, err)
	}
	for _, library := range libraries {
		if err := os.Symlink(filepath.Join(dir, libDir, library.Name()), filepath.Join(b.Libraries(), library.Name())); err != nil {
			return fmt.Errorf("linking %s: %w", file, err)
		}
	}
	return nil
}

const libDir = "lib"

// Libraries is the folder of the bundle's libraries.
func (b *Bundle) Libraries() string { return filepath.Join(b.dir, libDir) }

// program is the path of one of the bundle's programs.
func (b *Bundle) program(name string) string { return filepath.Join(b.dir, b.programs, name) }

// command is a program of the bundle, in a process group of its own that ends with the context. Neither settings of
// llama.cpp nor libraries of this machine take the place of the bundle's own.
func (b *Bundle) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.program(name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	const search = "LD_LIBRARY_PATH="
	libraries := search + b.Libraries()
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool {
		if others, ok := strings.CutPrefix(pair, search); ok {
			libraries += ":" + others // where containers have the driver's
			return true
		}
		return strings.HasPrefix(pair, "GGML_") || strings.HasPrefix(pair, "LLAMA_")
	})
	cmd.Env = append(cmd.Env, libraries)
	return cmd
}

// lastLines are the last lines of a program's output, for a message.
func lastLines(text string) string {
	const keep = 10
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}
