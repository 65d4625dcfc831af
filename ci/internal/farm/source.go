package farm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/matrix/patches"
)

// fallbackEpoch dates a tree that carries no date of its own, so that the same
// content produces the same bytes on any day: 2020-01-01 00:00:00 UTC.
const fallbackEpoch = 1577836800

// shortCommit is how much of a commit id or digest stands for a version where
// the tree states none.
const shortCommit = 12

// SourceError reports a source that the user must specify differently.
type SourceError struct {
	Given   string
	Problem string
	Hint    string
}

func (e *SourceError) Error() string {
	if e.Given == "" {
		return "reading the pinned source: " + e.Problem
	}
	return fmt.Sprintf("reading source %s: %s", e.Given, e.Problem)
}

// ResolveSource finds the tree that given names and returns it as a folder under
// cacheDir, which is kept: a tree that is there already is used again after its
// digest was recomputed.
//
// given is a git URL, a folder, a tarball (.tar, .tar.gz, .tar.zst, .tar.xz) or
// a git bundle file. "@tag-or-commit" may follow what has a history; "@ref"
// alone is the pin's repository at that ref. Empty is the pin: its commit from
// its git URL or, where that cannot be had, from its npm package, whose
// integrity is checked. A full commit id that is cached needs no network. The
// files of a commit make the git tree that the commit names, or the error
// is a *TreeError; for the pinned commit, the tree is the pinned one.
//
// A folder that is a git work tree contributes its tracked files and those that
// git does not ignore; any other folder contributes all of its files.
//
// The patches are applied to a copy of the tree, which is kept as well. One that the
// tree has already is dropped, with a word to progress, and so is one that changes
// a file which the tree does not have, but not from the pinned commit: the set is
// made for it. One that does not apply in any of its forms is an error.
//
// The date of the tree is $SOURCE_DATE_EPOCH, else that of the commit, else the
// newest in the tarball, else 2020-01-01.
func ResolveSource(ctx context.Context, given string, pin matrix.LlamaPin, set []patches.Patch, cacheDir string, progress func(string)) (Source, error) {
	if progress == nil {
		progress = func(string) {}
	}
	epoch, err := epochFromEnv()
	if err != nil {
		return Source{}, err
	}
	where, err := parseLocation(given, pin)
	if err != nil {
		return Source{}, err
	}
	cache, err := openTreeCache(cacheDir)
	if err != nil {
		return Source{}, err
	}
	defer cache.close()
	r := resolver{cache: cache, progress: progress}
	var tree origin
	switch {
	case given == "":
		tree, err = r.pinned(ctx, pin)
	case where.kind == inGit:
		tree, err = r.gitURL(ctx, where.base, where.ref)
	case where.kind == inFolder && where.ref != "":
		tree, err = r.gitURL(ctx, where.base, where.ref)
	case where.kind == inFolder:
		tree, err = r.folder(ctx, where.base)
	case where.kind == inBundle:
		tree, err = r.bundle(ctx, where.base, where.ref)
	default:
		tree, err = r.tarball(ctx, where.base)
	}
	if err != nil {
		var user *SourceError
		if errors.As(err, &user) || ctx.Err() != nil {
			return Source{}, err
		}
		if given == "" {
			return Source{}, fmt.Errorf("reading the pinned source: %w", err)
		}
		return Source{}, fmt.Errorf("reading source %s: %w", given, err)
	}
	// Wherever it came from, a tree named by the pinned commit must be the pinned tree.
	if tree.commit == pin.Commit && tree.tree != pin.Tree {
		return Source{}, fmt.Errorf("reading source %s: %w", cmp.Or(given, "of the pin"), &TreeError{pin.Commit, pin.Tree, tree.tree})
	}
	src := Source{
		Given:    given,
		Commit:   tree.commit,
		Build:    tree.build,
		Digest:   tree.sums.digest,
		Epoch:    time.Unix(fallbackEpoch, 0).UTC(),
		Warnings: tree.warnings,
	}
	if number := buildOfTag(tree.tag); src.Build == 0 && number > 0 {
		src.Build, src.Warnings = number, nil // a tag has the number, and the warnings only say that it is missing
	}
	if given == "" {
		src.Given = pin.Repository + "@" + pin.Ref
		// Not every way to the pin has the history that the number counts, and none of them may change a byte.
		src.Build, src.Warnings = pin.Build, nil
		tree.date = cmp.Or(pin.Epoch, tree.date)
	}
	if src.Dir, src.Patches, err = r.patched(ctx, tree, set, tree.commit == pin.Commit); err != nil {
		return Source{}, err
	}
	if src.Version, err = statedVersion(src.Dir); err != nil {
		return Source{}, err
	}
	if src.Version == "" {
		src.Version = derivedVersion(tree)
	}
	switch {
	case epoch > 0:
		src.Epoch = time.Unix(epoch, 0).UTC()
	case tree.date > 0:
		src.Epoch = time.Unix(tree.date, 0).UTC()
	}
	return src, nil
}

// origin is a tree in the cache and what is known about where it came from.
type origin struct {
	sums   treeSums
	commit string
	tree   string // git's id of the tree that the files make; empty if it was not needed
	tag    string // the requested ref, if that is a tag
	build  int
	date   int64 // Unix seconds; 0 if unknown

	submodules map[string]string // of a work tree: see treeSums.gitTree
	warnings   []string
}

// resolver is what every kind of source needs to get its tree into the cache.
type resolver struct {
	cache    *treeCache
	progress func(string)
}

func epochFromEnv() (int64, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return 0, nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil || epoch <= 0 {
		return 0, &SourceError{Given: "$SOURCE_DATE_EPOCH", Problem: fmt.Sprintf("%q is not a number of seconds", text),
			Hint: "unset it, or give seconds since 1970"}
	}
	return epoch, nil
}

type locationKind int

const (
	inGit locationKind = iota
	inFolder
	inBundle
	inTarball
)

// location is a source argument taken apart.
type location struct {
	kind locationKind
	base string
	ref  string
}

// scpLike is git's short form of an ssh URL, host:path or user@host:path.
var scpLike = regexp.MustCompile(`^([A-Za-z0-9._-]+@)?[A-Za-z0-9._-]+:[^/\\].*|^[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:.+`)

func parseLocation(given string, pin matrix.LlamaPin) (location, error) {
	refuse := func(problem, hint string) (location, error) {
		return location{}, &SourceError{Given: given, Problem: problem, Hint: hint}
	}
	const forms = "give a git URL, a folder, a tarball or a git bundle file; @tag-or-commit may follow the ones with a history"
	if given == "" {
		return location{kind: inGit, base: pin.Repository}, nil
	}
	base, ref := splitRef(given)
	if base == "" {
		base = pin.Repository
	}
	if strings.HasPrefix(base, "-") || strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " ~^:?*[\\") || strings.Contains(ref, "..") {
		return refuse("not a source and a tag or commit", forms)
	}
	if strings.HasSuffix(given, "@") {
		return refuse("nothing follows the @", "give a tag or commit after it, or leave it out")
	}
	info, err := os.Stat(base)
	switch {
	case err == nil && info.IsDir():
		if ref != "" && !isWorkTree(base) && !isBareRepository(base) {
			return refuse("the folder is not a git repository, so "+ref+" does not apply to it", "leave out @"+ref)
		}
		if ref == "" && isBareRepository(base) {
			return location{kind: inGit, base: base}, nil
		}
		return location{kind: inFolder, base: base, ref: ref}, nil
	case err == nil && info.Mode().IsRegular():
		bundle, err := isGitBundle(base)
		if err != nil {
			return location{}, err
		}
		if bundle {
			return location{kind: inBundle, base: base, ref: ref}, nil
		}
		if ref != "" {
			return refuse("a tarball has no history, so "+ref+" does not apply to it", "leave out @"+ref)
		}
		return location{kind: inTarball, base: base}, nil
	case err == nil:
		return refuse("neither a file nor a folder", forms)
	case !errors.Is(err, fs.ErrNotExist) && !strings.Contains(base, "://"):
		return location{}, fmt.Errorf("reading source %s: %w", given, err)
	}
	if strings.Contains(base, "://") {
		if u, err := url.Parse(base); err != nil || u.Path == "" || (u.Host == "" && u.Scheme != "file") {
			return refuse("not a URL of a git repository", forms)
		}
		return location{kind: inGit, base: base, ref: ref}, nil
	}
	if scpLike.MatchString(base) {
		return location{kind: inGit, base: base, ref: ref}, nil
	}
	return refuse("no such file or folder, and no URL", forms)
}

// splitRef takes "@ref" off the end. The @ of user@host is part of the base, and
// so is one in the name of something that exists.
func splitRef(given string) (base, ref string) {
	at := strings.LastIndexByte(given, '@')
	if at < 0 {
		return given, ""
	}
	if _, err := os.Lstat(given); err == nil {
		return given, ""
	}
	base, ref = given[:at], given[at+1:]
	if _, authority, ok := strings.Cut(base, "://"); ok && !strings.Contains(authority, "/") {
		return given, ""
	}
	if strings.Contains(ref, ":") {
		return given, ""
	}
	return base, ref
}

// checkTree returns an error if a tree is not llama.cpp.
func checkTree(dir string) error {
	var missing []string
	switch text, err := os.ReadFile(filepath.Join(dir, "CMakeLists.txt")); {
	case errors.Is(err, fs.ErrNotExist):
		missing = append(missing, "CMakeLists.txt")
	case err != nil:
		return err
	case !llamaProject.Match(text):
		missing = append(missing, `project("llama.cpp") in CMakeLists.txt`)
	}
	if info, err := os.Stat(filepath.Join(dir, "ggml", "src", "ggml-cuda")); err != nil || !info.IsDir() {
		missing = append(missing, "the folder ggml/src/ggml-cuda")
	}
	if len(missing) == 0 {
		return nil
	}
	return &notLlamaError{missing: missing}
}

// notLlamaError is a tree that is not llama.cpp.
type notLlamaError struct{ missing []string }

func (e *notLlamaError) Error() string {
	return "not a llama.cpp tree: it lacks " + strings.Join(e.missing, " and ")
}

var (
	llamaProject = regexp.MustCompile(`(?mi)^[ \t]*project\s*\(\s*"?llama\.cpp"?[\s)]`)
	versionLine  = regexp.MustCompile(`(?m)^[ \t]*set\s*\(\s*LLAMA_VERSION_(MAJOR|MINOR|PATCH)\s+"?([0-9]+)"?\s*\)`)
)

// statedVersion is the version in the tree's LLAMA_VERSION_* lines, or empty:
// trees before 0.1 have none.
func statedVersion(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "CMakeLists.txt"))
	if err != nil {
		return "", fmt.Errorf("reading the tree's version: %w", err)
	}
	parts := map[string]string{}
	for _, m := range versionLine.FindAllSubmatch(text, -1) {
		parts[string(m[1])] = string(m[2])
	}
	if len(parts) != 3 {
		return "", nil
	}
	return parts["MAJOR"] + "." + parts["MINOR"] + "." + parts["PATCH"], nil
}

// buildTag is how llama.cpp tags its builds, since b1046.
var buildTag = regexp.MustCompile(`^b([1-9][0-9]{3,})$`)

// buildOfTag returns the build number that a tag contains: llama.cpp counts the same commits. 0 means none.
func buildOfTag(tag string) int {
	match := buildTag.FindStringSubmatch(tag)
	if match == nil {
		return 0
	}
	number, err := strconv.Atoi(match[1])
	if err != nil {
		return 0
	}
	return number
}

// derivedVersion names a tree that states no version.
func derivedVersion(tree origin) string {
	switch {
	case tree.tag != "":
		return strings.TrimPrefix(tree.tag, "v")
	case tree.build > 0:
		return "b" + strconv.Itoa(tree.build)
	case tree.commit != "":
		return tree.commit[:min(len(tree.commit), shortCommit)]
	}
	return "tree-" + strings.TrimPrefix(tree.sums.digest, digestPrefix)[:shortCommit]
}
