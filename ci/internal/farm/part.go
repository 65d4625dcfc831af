package farm

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// A part is what one step made, as two files that travel from the machine that ran the step to the one that puts the
// release together:
//
//	sm75.part.tar.zst  the step's folder; the same folder gives the same bytes
//	sm75.part.json     of which release and step it is, what it was made of, and the archive's digest
//
// Parts carry no signature. Whoever collects them must have them from where no one else could have put them, as artifacts
// of the same workflow run are.
type part struct {
	SchemaVersion int    `json:"schema_version"`
	Step          string `json:"step"`
	Release       string `json:"release"`
	// Inputs are what decides the step's bytes, by names for messages.
	Inputs  map[string]string `json:"inputs"`
	Archive manifests.Digest  `json:"archive"`
	Stats   StepStats         `json:"stats"`
}

const (
	partVersion = 1
	partFile    = ".part.json"
	partArchive = ".part." + manifests.FormatTarZst

	// Two of the inputs are the same in all parts of a release, and only an engine knows them.
	inputBase   = "base image"
	inputEngine = "engine"
)

// inputs are what the step is made of: two steps with the same inputs give the same bytes.
func (s Step) inputs() map[string]string {
	image, arguments := s.Recipe.BuilderImage, s.Recipe.CUDACMake
	toolkit := s.Toolkit()
	inputs := map[string]string{
		"llama.cpp":                     fmt.Sprintf("%s, build %d, %s", s.Source.Version, s.Source.Build, cmp.Or(s.Source.Commit, "no commit")),
		"source tree":                   s.Source.Digest,
		"SOURCE_DATE_EPOCH":             fmt.Sprint(s.Source.Epoch.Unix()),
		"toolkit":                       fmt.Sprintf("CUDA %s, nvcc %s", toolkit.CUDA, toolkit.NVCC),
		"digest of the stages' scripts": s.Recipe.Stages,
		inputBase:                       s.Recipe.BaseImage,
		inputEngine:                     s.Recipe.Engine,
	}
	for _, patch := range s.Source.Patches {
		inputs["patch "+patch.Name] = patch.SHA256
	}
	switch s.Kind {
	case StepHost:
		image, arguments = s.Recipe.HostImage, s.Recipe.HostCMake
	case StepDevice:
		inputs["CMAKE_CUDA_ARCHITECTURES"] = s.Target.CMakeArchitectures()
	case StepRuntime:
		arguments = nil
		inputs["runtime"] = s.Recipe.Runtime
	}
	inputs["builder image"], inputs["cmake command line"] = image, strings.Join(arguments, " ")
	return inputs
}

// PartError is a part that is missing, damaged, or made of something else than the release is.
type PartError struct {
	Part    string // the file, or the step where there is none
	Problem string
	steps   []string // to build again
}

func (e *PartError) Error() string { return fmt.Sprintf("collecting %s: %s", e.Part, e.Problem) }

// Hint says how to make the part.
func (e *PartError) Hint() string {
	if len(e.steps) == 0 {
		return "give folders with the parts of one release, which go run ./ci build --only STEP --out DIR makes"
	}
	return fmt.Sprintf("build it from this checkout, and give the folder with --parts: go run ./ci build --only %s --out DIR, with the same --sm, --release and --llama", strings.Join(e.steps, ","))
}

// WritePart writes what a step left in dir as a part into the folder to, and returns its archive. A part that is there
// already is replaced.
func WritePart(ctx context.Context, to, release string, step Step, dir string, stats StepStats) (manifests.Artifact, error) {
	name := filepath.Join(to, step.Name()+partArchive)
	fail := func(err error) (manifests.Artifact, error) {
		return manifests.Artifact{}, fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fail(err)
	}
	var digest manifests.Digest
	err := ReplaceFile(name, func(w io.Writer) error {
		file := archive.NewDigester(w)
		z, err := zstd.NewWriter(file, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		if err := errors.Join(packTree(ctx, z, dir), z.Close()); err != nil {
			return err
		}
		digest = file.Digest()
		return nil
	})
	if err != nil {
		return fail(err)
	}
	text, err := json.MarshalIndent(part{partVersion, step.Name(), release, step.inputs(), digest, stats}, "", "  ")
	if err != nil {
		return fail(err)
	}
	err = ReplaceFile(filepath.Join(to, step.Name()+partFile), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return fail(err)
	}
	return manifests.Artifact{Name: filepath.Base(name), Format: manifests.FormatTarZst, Size: digest.Size, SHA256: digest.SHA256}, nil
}

// ReplaceFile writes a file under another name in its folder, and renames it when it is complete and on disk.
func ReplaceFile(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.partial")
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = errors.Join(f.Chmod(0o644), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// packTree writes a folder's files and links as a tar that unpack reads: ascending, with one time, and of the modes only
// whether a file may be executed.
func packTree(ctx context.Context, w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	names, err := filesUnder(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	for _, name := range names {
		if err := packFile(ctx, tw, root, name); err != nil {
			return err
		}
	}
	return tw.Close()
}

func packFile(ctx context.Context, tw *tar.Writer, root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0)}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		header.Typeflag, header.Size = tar.TypeSymlink, 0
		if header.Linkname, err = root.Readlink(name); err != nil {
			return err
		}
		return tw.WriteHeader(header)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file nor a link", name)
	case info.Mode()&0o111 != 0:
		header.Mode = 0o755
	}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, archive.WithContext(ctx, f))
	return err
}

// Parts are the parts of one release. As a Builder they give what each step made, on whatever machine that was, instead of
// running it.
type Parts struct {
	parts map[string]part   // by step
	paths map[string]string // without the ends of the names; by step
}

var _ Builder = (*Parts)(nil)

// ReadParts reads what the parts in the folders say of themselves. A part that cannot be read, or two of one step, are a
// *PartError.
func ReadParts(dirs []string) (*Parts, error) {
	p := &Parts{map[string]part{}, map[string]string{}}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, &PartError{Part: "the parts", Problem: fmt.Sprintf("reading the folder: %v", err)}
		}
		for _, entry := range entries {
			step, ok := strings.CutSuffix(entry.Name(), partFile)
			if !ok || strings.HasPrefix(step, ".") {
				continue
			}
			path := filepath.Join(dir, entry.Name())
			if other, twice := p.paths[step]; twice {
				return nil, &PartError{Part: path, Problem: fmt.Sprintf("%s%s is of the same step", other, partFile)}
			}
			if p.parts[step], err = readPart(path); err != nil {
				return nil, &PartError{path, fmt.Sprintf("it is damaged, or of another version of this program: %v", err), []string{step}}
			}
			p.paths[step] = strings.TrimSuffix(path, partFile)
			if of := p.parts[step].Step; of != step {
				return nil, &PartError{path, fmt.Sprintf("it is the part of the step %q under the name of another", of), []string{step}}
			}
		}
	}
	if len(p.parts) == 0 {
		return nil, &PartError{Part: strings.Join(dirs, ", "), Problem: "there are no parts"}
	}
	return p, nil
}

func readPart(path string) (part, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return part{}, err
	}
	var p part
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return part{}, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return part{}, errors.New("more follows its end")
	}
	if p.SchemaVersion != partVersion {
		return part{}, fmt.Errorf("schema_version is %d, not %d", p.SchemaVersion, partVersion)
	}
	return p, nil
}

// Origin returns the base image and the engine that the parts were made with: what a recipe has from the engine that would
// have run the steps. Check sees to it that all parts have the same.
func (p *Parts) Origin() (base, engine string) {
	first := p.parts[slices.Sorted(maps.Keys(p.parts))[0]]
	return first.Inputs[inputBase], first.Inputs[inputEngine]
}

// Check holds the parts to the steps of a release: each has its part, made of the step's own inputs, with the archive that
// it names, and there is no other. It returns a *PartError for the first that differs.
func (p *Parts) Check(ctx context.Context, release string, steps []Step) error {
	strange := maps.Clone(p.parts)
	var missing []string
	for _, step := range steps {
		if _, found := p.parts[step.Name()]; !found {
			missing = append(missing, step.Name())
		}
		delete(strange, step.Name())
	}
	for _, name := range slices.Sorted(maps.Keys(strange)) {
		return &PartError{Part: p.paths[name] + partFile, Problem: "no bundle of the selected SMs needs it; select its SM with --sm, or leave the part out"}
	}
	if len(missing) > 0 {
		return &PartError{strings.Join(missing, ", "), "the part is missing", missing}
	}
	for _, step := range steps {
		if err := p.check(ctx, release, step); err != nil {
			return err
		}
	}
	return nil
}

func (p *Parts) check(ctx context.Context, release string, step Step) error {
	name := step.Name()
	has, path := p.parts[name], p.paths[name]
	refused := func(format string, args ...any) error {
		return &PartError{path + partFile, fmt.Sprintf(format, args...), []string{name}}
	}
	if has.Release != release {
		return refused("it belongs to release %q, not to %q", has.Release, release)
	}
	want := step.inputs()
	all := maps.Clone(want)
	maps.Copy(all, has.Inputs)
	for _, input := range slices.Sorted(maps.Keys(all)) {
		if has.Inputs[input] != want[input] {
			return refused("its %s is %q, and that of this release is %q", input, has.Inputs[input], want[input])
		}
	}
	f, err := os.Open(path + partArchive)
	if err != nil {
		return refused("its archive cannot be read: %v", err)
	}
	defer f.Close()
	sum := archive.NewDigester(io.Discard)
	if _, err := io.Copy(sum, archive.WithContext(ctx, f)); err != nil {
		return fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	if sum.Digest() != has.Archive {
		return refused("its archive %s is damaged: sha256 %s, %d bytes, instead of %s, %d bytes", filepath.Base(f.Name()),
			sum.Digest().SHA256, sum.Digest().Size, has.Archive.SHA256, has.Archive.Size)
	}
	return nil
}

// Name says which engine ran the steps.
func (p *Parts) Name() string {
	_, engine := p.Origin()
	return "parts of " + engine
}

// Build unpacks a step's part. The cost it returns is what the step took where it ran.
func (p *Parts) Build(ctx context.Context, step Step, dest string, events func(Event)) (StepStats, error) {
	f, err := os.Open(p.paths[step.Name()] + partArchive)
	if err != nil {
		return StepStats{}, fmt.Errorf("unpacking the part %s: %w", step.Name(), err)
	}
	defer f.Close()
	events(Event{Stage: "unpack", State: StateStart})
	stream, closeStream, err := decompress(f)
	if err == nil {
		_, err = unpack(ctx, stream, dest)
		closeStream()
	}
	if err != nil {
		events(Event{Stage: "unpack", State: StateFailed})
		return StepStats{}, fmt.Errorf("unpacking %s: %w", f.Name(), err)
	}
	events(Event{Stage: "unpack", State: StateDone})
	return p.parts[step.Name()].Stats, nil
}
