package farm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/docker/mirror"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Where a pin names no npm package, the next one is looked for in this one.
const (
	carrier       = "node-llama-cpp"
	carrierBundle = "package/llama/gitRelease.bundle"
	// carrierInfo is a file beside the bundle: which tag of which repository it has.
	carrierInfo = "llama.cpp.info.json"
)

const (
	maxRegistryBytes = 64 << 20 // what a registry says of a package; that of node-llama-cpp is 400 KB
	maxOpened        = 4        // packages that a search downloads, of 35 MB each
	maxOpenedFor     = 12       // the same where one tag is looked for
)

// A packageVersion is what a registry says of one version of a package.
type packageVersion struct {
	spec      string // NAME@VERSION
	version   string
	integrity string
	published time.Time // zero if unknown
}

var stableVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)

// packageVersions are the versions of a package that are neither deprecated nor previews, the newest first.
func packageVersions(ctx context.Context, name string) ([]packageVersion, error) {
	root, err := url.Parse(mirror.NPMFromEnv(os.Getenv))
	if err != nil {
		return nil, fmt.Errorf("reading the npm registry's address: %w", err)
	}
	text, _, err := new(transfer.Client).Get(ctx, []string{root.JoinPath(url.PathEscape(name)).String()}, maxRegistryBytes)
	if err != nil {
		return nil, fmt.Errorf("asking for the versions of the npm package %s: %w", name, err)
	}
	var document struct {
		Time     map[string]string `json:"time"`
		Versions map[string]struct {
			Deprecated any `json:"deprecated"` // a reason, mostly
			Dist       struct {
				Integrity string `json:"integrity"`
			} `json:"dist"`
		} `json:"versions"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("reading the versions of the npm package %s: %w", name, err)
	}
	var versions []packageVersion
	for version, about := range document.Versions {
		deprecated := about.Deprecated != nil && about.Deprecated != false && about.Deprecated != ""
		if _, err := sha512Of(about.Dist.Integrity); err != nil || deprecated || !stableVersion.MatchString(version) {
			continue
		}
		published, _ := time.Parse(time.RFC3339, document.Time[version]) // mirrors may leave it out
		versions = append(versions, packageVersion{name + "@" + version, version, about.Dist.Integrity, published})
	}
	slices.SortFunc(versions, func(a, b packageVersion) int { return matrix.CompareVersions(b.version, a.version) })
	return versions, nil
}

// carrier is the package that the pin names, as NAME and VERSION, or the usual one and none.
func (n *nextPin) carrier() (name, version, bundlePath string) {
	if at := strings.LastIndexByte(n.pin.NPMPackage, '@'); at > 0 {
		return n.pin.NPMPackage[:at], n.pin.NPMPackage[at+1:], n.pin.BundlePath
	}
	return carrier, "", carrierBundle
}

// versions are those of the package, after a look at the pinned one: a registry must not serve other bytes for it.
func (n *nextPin) versions(ctx context.Context) ([]packageVersion, error) {
	name, pinned, _ := n.carrier()
	n.progress("asking npm for " + name)
	versions, err := packageVersions(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if v.version == pinned && v.integrity != n.pin.NPMIntegrity {
			return nil, &MovedError{mirror.NPMFromEnv(os.Getenv), "the package " + v.spec, n.pin.NPMIntegrity, v.integrity}
		}
	}
	return versions, nil
}

// info is which tag a package's bundle has.
type info struct {
	Tag        string `json:"tag"`
	Repository string `json:"llamaCppGithubRepo"`
}

// open downloads a package and reads which tag it carries.
func (n *nextPin) open(ctx context.Context, v packageVersion, bundlePath string) (file string, about info, err error) {
	if file, err = n.download(ctx, v.spec, v.integrity); err != nil {
		return "", info{}, err
	}
	stage, remove, err := n.cache.stage()
	if err != nil {
		return "", info{}, err
	}
	defer remove()
	copied := filepath.Join(stage, "info")
	if err = memberOf(file, path.Join(path.Dir(bundlePath), carrierInfo), copied); err == nil {
		var text []byte
		if text, err = os.ReadFile(copied); err == nil {
			err = json.Unmarshal(text, &about)
		}
	}
	if err != nil {
		return "", info{}, fmt.Errorf("reading which llama.cpp the npm package %s has: %w", v.spec, err)
	}
	return file, about, nil
}

// carry puts a package into a pin.
func carry(pin *matrix.LlamaPin, v packageVersion, bundlePath, commit string) {
	pin.NPMPackage, pin.NPMCommit, pin.NPMIntegrity, pin.BundlePath = v.spec, commit, v.integrity, bundlePath
}

// findPackage looks for a package that has the tree of a pin. Builders that reach the repository do not need one, so that
// what goes wrong is only noted, but for a package that was moved.
func (n *nextPin) findPackage(ctx context.Context, pin *matrix.LlamaPin, since time.Time) error {
	_, _, bundlePath := n.carrier()
	versions, err := n.versions(ctx)
	if _, moved := errors.AsType[*MovedError](err); moved {
		return err
	}
	if err != nil {
		n.note("no npm package: %v", err)
		return ctx.Err()
	}
	opened := 0
	for _, v := range versions {
		if !v.published.IsZero() && v.published.Before(since) {
			continue // it cannot have what was not there yet
		}
		if opened++; opened > maxOpened {
			break
		}
		file, about, err := n.open(ctx, v, bundlePath)
		if err == nil && about.Tag != pin.Ref {
			continue
		}
		var tree origin
		if err == nil {
			tree, err = n.packed(ctx, v.spec, file, bundlePath, "")
		}
		switch {
		case err != nil:
			n.note("%v", err)
		case tree.tree != pin.Tree:
			n.note("the npm package %s has tree %s for %s, and the repository has %s", v.spec, tree.tree, pin.Ref, pin.Tree)
		default:
			carry(pin, v, bundlePath, tree.commit)
			return nil
		}
	}
	n.note("no npm package has the tree of %s yet: builders need the repository", pin.Ref)
	return ctx.Err()
}

// fromNPM takes the next pin from the newest package with a release newer than the pin's, or from the newest with the
// wanted tag.
func (n *nextPin) fromNPM(ctx context.Context) (Next, error) {
	name, pinned, bundlePath := n.carrier()
	versions, err := n.versions(ctx)
	if err != nil {
		return Next{}, err
	}
	limit := maxOpened
	if n.o.To != "" {
		limit = maxOpenedFor
	}
	opened := 0
	for _, v := range versions {
		if n.o.To == "" && (matrix.CompareVersions(v.version, pinned) <= 0 || !v.published.IsZero() && !n.oldEnough("the npm package "+v.spec, v.published)) {
			continue
		}
		if opened++; opened > limit {
			break
		}
		file, about, err := n.open(ctx, v, bundlePath)
		if err != nil {
			return Next{}, err
		}
		if !strings.HasSuffix(n.pin.Repository, "/"+about.Repository) {
			n.note("the npm package %s has a llama.cpp of %s", v.spec, about.Repository)
			continue
		}
		if n.o.To == "" && !n.newer(about.Tag) || n.o.To != "" && about.Tag != n.o.To {
			continue
		}
		if about.Tag == n.pin.Ref {
			return Next{Pin: n.pin}, nil
		}
		tree, err := n.packed(ctx, v.spec, file, bundlePath, "")
		if err != nil {
			return Next{}, err
		}
		date := cmp.Or(v.published, time.Unix(tree.date, 0))
		if n.o.To == "" && !n.oldEnough("the llama.cpp of "+v.spec, time.Unix(tree.date, 0)) {
			continue
		}
		pin, err := n.pinOf(tree, about.Tag)
		if err != nil {
			return Next{}, err
		}
		carry(&pin, v, bundlePath, tree.commit)
		return Next{Pin: pin, Date: date}, nil
	}
	if n.o.To != "" && n.o.To != n.pin.Ref {
		return Next{}, &SourceError{Given: "the npm package " + name, Problem: fmt.Sprintf("none of its %d newest versions has the tag %s", min(len(versions), limit), n.o.To),
			Hint: "give a tag that one of them has, or run the command where the repository can be reached"}
	}
	return Next{Pin: n.pin}, nil
}
