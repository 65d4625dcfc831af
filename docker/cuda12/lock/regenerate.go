package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/publisher/pypi"
)

// The suites. Debian 12 without its updates and security archives is frozen:
// what the lock names stays on the mirrors for as long as the release does.
const baseSuite = "bookworm"

var (
	baseComponents = []string{"main"}
	cudaSuite      = "trixie"
	cudaComponents = []string{"main", "non-free"}
	linkSuite      = "bullseye"
)

const lockHeader = `# Written by "go generate" from packages.in: do not edit.
# kind name version path size sha256
`

// mirrors are the places packages come from, without a slash at the end.
type mirrors struct {
	debian, npm string
	pypi        pypi.Index
}

func mirrorsFromEnv(getenv func(string) string) mirrors {
	return mirrors{
		debian: mirror.DebianFromEnv(getenv)[0],
		npm:    mirror.NPMFromEnv(getenv),
		pypi:   pypi.Index{URL: mirror.PyPIFromEnv(getenv)},
	}
}

// wishes is packages.in by kind.
type wishes map[cuda12.Kind][]string

func readWishes(r io.Reader) (wishes, error) {
	wanted := make(wishes)
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) != 2 {
			return nil, fmt.Errorf("reading packages.in: line %d: want a kind and a name", number)
		}
		switch kind := cuda12.Kind(words[0]); kind {
		case cuda12.Base, cuda12.Deb, cuda12.CUDA, cuda12.PyPI, cuda12.Link, cuda12.NPM:
			wanted[kind] = append(wanted[kind], words[1])
		default:
			return nil, fmt.Errorf("reading packages.in: line %d: unknown kind %q", number, kind)
		}
	}
	return wanted, lines.Err()
}

// regenerate resolves the file in into the file out. beside is the lock of what is there already, if not empty.
func regenerate(ctx context.Context, in, out, beside string, from mirrors) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return fmt.Errorf("reading %s: %w", in, err)
	}
	wanted, err := readWishes(bytes.NewReader(text))
	if err != nil {
		return err
	}
	var there cuda12.Lock
	if beside != "" {
		text, err := os.ReadFile(beside)
		if err != nil {
			return fmt.Errorf("reading %s: %w", beside, err)
		}
		if there, err = cuda12.ParseLock(text); err != nil {
			return err
		}
	}
	asked := time.Now()
	lock, err := resolve(ctx, wanted, there, from)
	if err != nil {
		return err
	}
	encoded := append([]byte(lockHeader+cuda12.SnapshotLine(asked)), lock.Encode()...)
	if _, err := cuda12.ParseLock(encoded); err != nil {
		return err
	}
	if err := os.WriteFile(out+".new", encoded, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	return os.Rename(out+".new", out)
}

func resolve(ctx context.Context, wanted wishes, there cuda12.Lock, from mirrors) (cuda12.Lock, error) {
	debian, err := fetchIndex(ctx, from.debian, baseSuite, baseComponents)
	if err != nil {
		return nil, err
	}
	var lock cuda12.Lock
	have := make(map[string]bool)
	for _, p := range there.Of(cuda12.Base, cuda12.Deb) {
		have[p.Name] = true
	}
	system := wanted[cuda12.Base]
	for name, p := range debian.byName {
		if p.essential || p.priority == "required" {
			system = append(system, name)
		}
	}
	slices.Sort(system) // the order decides between alternatives
	base, err := debian.closure(system, have)
	if err != nil {
		return nil, err
	}
	for _, p := range base {
		have[p.name] = true
		lock = append(lock, p.lock(cuda12.Base))
	}
	debs, err := debian.closure(wanted[cuda12.Deb], have)
	if err != nil {
		return nil, err
	}
	for _, p := range debs {
		lock = append(lock, p.lock(cuda12.Deb))
	}
	for _, unpacked := range []struct {
		kind       cuda12.Kind
		suite      string
		components []string
	}{{cuda12.CUDA, cudaSuite, cudaComponents}, {cuda12.Link, linkSuite, baseComponents}} {
		if len(wanted[unpacked.kind]) == 0 {
			continue
		}
		index, err := fetchIndex(ctx, from.debian, unpacked.suite, unpacked.components)
		if err != nil {
			return nil, err
		}
		for _, name := range wanted[unpacked.kind] {
			p, ok := index.byName[name]
			if !ok {
				return nil, fmt.Errorf("resolving %s: not in %s", name, unpacked.suite)
			}
			lock = append(lock, p.lock(unpacked.kind))
		}
	}
	for _, wish := range wanted[cuda12.PyPI] {
		p, err := resolvePyPI(ctx, wish, from.pypi)
		if err != nil {
			return nil, err
		}
		lock = append(lock, p)
	}
	for _, wish := range wanted[cuda12.NPM] {
		p, err := resolveNPM(ctx, wish, from.npm)
		if err != nil {
			return nil, err
		}
		lock = append(lock, p)
	}
	return lock, nil
}

func fetchIndex(ctx context.Context, mirror, suite string, components []string) (*index, error) {
	x := newIndex()
	for _, component := range components {
		address := fmt.Sprintf("%s/dists/%s/%s/binary-amd64/Packages.xz", mirror, suite, component)
		body, err := get(ctx, address)
		if err != nil {
			return nil, err
		}
		plain, err := xz.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", address, err)
		}
		if err := x.read(plain); err != nil {
			return nil, fmt.Errorf("%s: %w", address, err)
		}
	}
	return x, nil
}

// resolveNPM pins NAME@VERSION. The registry promises a SHA-512; the lock has
// the SHA-256 of the bytes that kept the promise, like every other line.
func resolveNPM(ctx context.Context, wish, registry string) (cuda12.Package, error) {
	name, version, ok := strings.Cut(wish, "@")
	if !ok {
		return cuda12.Package{}, fmt.Errorf("resolving %s: want NAME@VERSION", wish)
	}
	body, err := get(ctx, registry+"/"+name+"/"+version)
	if err != nil {
		return cuda12.Package{}, err
	}
	var document struct {
		Dist struct{ Integrity, Tarball string }
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return cuda12.Package{}, fmt.Errorf("resolving %s: %w", wish, err)
	}
	tarball, err := url.Parse(document.Dist.Tarball)
	if err != nil {
		return cuda12.Package{}, fmt.Errorf("resolving %s: %w", wish, err)
	}
	below := fmt.Sprintf("%s/-/%s-%s.tgz", name, name, version)
	if !strings.HasSuffix(tarball.Path, "/"+below) {
		return cuda12.Package{}, fmt.Errorf("resolving %s: its tarball is at %s, want .../%s", wish, tarball, below)
	}
	content, err := get(ctx, registry+"/"+below)
	if err != nil {
		return cuda12.Package{}, err
	}
	sum := sha512.Sum512(content)
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum[:]); got != document.Dist.Integrity {
		return cuda12.Package{}, fmt.Errorf("resolving %s: the tarball's integrity is %s, the registry says %s", wish, got, document.Dist.Integrity)
	}
	digest := sha256.Sum256(content)
	return cuda12.Package{Kind: cuda12.NPM, Name: name, Version: version, Path: below, Size: int64(len(content)), SHA256: hex.EncodeToString(digest[:])}, nil
}

// publicFile is where the public index keeps a file, which its mirrors leave as it is.
var publicFile = regexp.MustCompile(`/(packages/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+)$`)

// resolvePyPI pins the wheel of NAME==VERSION for Linux on x86-64, by the digest and the size that the index states.
func resolvePyPI(ctx context.Context, wish string, from pypi.Index) (cuda12.Package, error) {
	name, version, ok := strings.Cut(wish, "==")
	if !ok {
		return cuda12.Package{}, fmt.Errorf("resolving %s: want NAME==VERSION", wish)
	}
	files, err := from.Files(ctx, name)
	if err != nil {
		return cuda12.Package{}, fmt.Errorf("resolving %s: %w", wish, err)
	}
	prefix := strings.ReplaceAll(pypi.Normal(name), "-", "_") + "-" + version + "-"
	files = slices.DeleteFunc(files, func(f pypi.File) bool {
		return !strings.HasPrefix(f.Name, prefix) || !strings.HasSuffix(f.Name, "_x86_64.whl")
	})
	if len(files) != 1 {
		return cuda12.Package{}, fmt.Errorf("resolving %s: %s has %d wheels of it for Linux on x86-64, want one", wish, from.URL, len(files))
	}
	file := files[0]
	at := publicFile.FindStringSubmatch(file.URL)
	if at == nil || file.SHA256 == "" || file.Size == 0 {
		return cuda12.Package{}, fmt.Errorf("resolving %s: %s states no size, no SHA-256 or not the public index's path of %s: ask that one", wish, from.URL, file.URL)
	}
	return cuda12.Package{Kind: cuda12.PyPI, Name: name, Version: version, Path: at[1], Size: file.Size, SHA256: file.SHA256}, nil
}

func get(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", address, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", address, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetching %s: %s", address, response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", address, err)
	}
	return body, nil
}
