package matrix

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// compiles lists what each toolkit release compiles for: plain targets from `nvcc --list-gpu-code`, architecture-specific
// ones (sm_120a) from the table of its manual. A new toolkit is a new row here.
var compiles = map[string]struct{ plain, specific []SM }{
	"12.4": {[]SM{50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90}, []SM{90}},
	"13.3": {[]SM{75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121}, []SM{90, 100, 103, 110, 120, 121}},
}

// broken are the toolkit releases that must not compile llama.cpp, and why.
var broken = map[string]string{
	"13.0": "its code for sm_120 and sm_121 crashes in quantized matrix products (llama.cpp issue 18331)",
	"13.2": "its compiler drops a byte mask, and IQ1_S, IQ2_S and IQ3_S models give garbage (llama.cpp issues 21255 and 28581); use 13.3 or later, where it is fixed",
}

// platforms are the words of a row's Platforms; a closed list, so that a slip is not a new platform.
var platforms = []string{"Colab", "Colab Pro", "Enterprise", "Kaggle", "Local"}

var (
	commitForm     = regexp.MustCompile(`^[0-9a-f]{40}$`)
	sha256Form     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	refForm        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)
	npmPackageForm = regexp.MustCompile(`^(@[a-z0-9-]+/)?[a-z0-9][a-z0-9._-]*@\d+\.\d+\.\d+$`)
	modelNameForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	repoForm       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$`)
	licenceForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)
)

// Check reports everything wrong with the matrix, as Problems.
func (m Matrix) Check() error {
	var p Problems
	if len(m.Toolkits) == 0 {
		p.Addf("toolkits", "no rows")
	}
	for i, k := range m.Toolkits {
		at := fmt.Sprintf("toolkits[%d]", i)
		p.Under(at, k.check())
		if i > 0 && CompareVersions(k.CUDA, m.Toolkits[i-1].CUDA) <= 0 {
			p.Addf(at+".cuda", "%s comes after %s: toolkits ascend", k.CUDA, m.Toolkits[i-1].CUDA)
		}
		if slices.ContainsFunc(m.Toolkits[:i], func(other Toolkit) bool { return other.Name == k.Name }) {
			p.Addf(at+".name", "%q stands here twice", k.Name)
		}
		if !slices.ContainsFunc(m.Targets, func(t Target) bool { return t.Toolkit == k.Name }) {
			p.Addf(at, "no row of targets names %q", k.Name)
		}
	}
	p.Under("floors", m.Floors.check())
	p.Under("llama_cpp", m.LlamaCPP.check())
	if len(m.Targets) == 0 {
		p.Addf("targets", "no rows")
	}
	for i, t := range m.Targets {
		at := fmt.Sprintf("targets[%d]", i)
		if toolkit, ok := m.ToolkitOf(t); ok {
			p.Under(at, t.check(toolkit))
		} else {
			p.Addf(at+".toolkit", "%q is none of toolkits", t.Toolkit)
		}
		if i == 0 {
			continue
		}
		switch row, before := t.Row(), m.Targets[i-1].Row(); {
		case row == before:
			p.Addf(at+".sm", "%s stands here twice", row.Short())
		case row.Compare(before) < 0:
			p.Addf(at+".sm", "%s comes after %s: rows ascend, PTX after machine code", row.Short(), before.Short())
		}
	}
	m.checkPTX(&p)
	return p.Err()
}

// checkPTX enforces the rule that a toolkit has one row of PTX at most, for its newest SM. Drivers compile PTX at the first
// start, for GPUs that no machine code serves. The first toolkit, which serves the oldest drivers, must have such a row.
func (m Matrix) checkPTX(p *Problems) {
	if len(m.Targets) > 0 && !slices.ContainsFunc(m.Targets, func(t Target) bool { return t.Seed }) {
		p.Addf("targets", "no row has seed: true, so %q selects nothing", seed)
	}
	for i, k := range m.Toolkits {
		highest, has := -1, false
		for j, t := range m.Targets {
			if t.Toolkit == k.Name && !t.PTX && (highest < 0 || t.SM > m.Targets[highest].SM) {
				highest = j
			}
			has = has || t.Toolkit == k.Name && t.PTX
		}
		if i == 0 && highest >= 0 && !has {
			p.Addf("targets", "%s has no row with ptx: true, which GPUs newer than the matrix run: add one for %s", k.Name, m.Targets[highest].Code())
		}
		for j, t := range m.Targets {
			at := fmt.Sprintf("targets[%d].ptx", j)
			switch {
			case t.Toolkit != k.Name || !t.PTX:
			case t.Variant != "":
				p.Addf(at, "true for %s: PTX of an architecture-specific target runs on no newer GPU", t.Code())
			case highest >= 0 && t.SM != m.Targets[highest].SM:
				p.Addf(at, "true for %s: the PTX of %s must be for its newest SM, %s", t.Code(), k.Name, m.Targets[highest].Code())
			case k.DriverPTX == "":
				p.Addf(fmt.Sprintf("toolkits[%d].driver_ptx", i), "missing: %s is PTX", t.Row())
			}
		}
	}
}

func (t Target) check(toolkit Toolkit) error {
	var p Problems
	switch codes := toolkit.Codes(); {
	case t.Variant != "" && t.Variant != "a":
		p.Addf("variant", "%q, want %q or nothing", t.Variant, "a")
	case codes != nil && !slices.Contains(codes, t.Code()):
		p.Addf("sm", "CUDA %s does not compile for %s", toolkit.CUDA, t.Code())
	}
	if want := t.SM.Architecture(); want == "" {
		p.Addf("sm", "%d is of no architecture known here", t.SM)
	} else if t.Architecture != want {
		p.Addf("architecture", "%q, but %s is %s", t.Architecture, t.SM.Capability(), want)
	}
	checkWords(&p, "gpus", t.GPUs)
	checkWords(&p, "platforms", t.Platforms)
	for i, platform := range t.Platforms {
		if !slices.Contains(platforms, platform) {
			p.Addf(fmt.Sprintf("platforms[%d]", i), "%q is none of %s", platform, strings.Join(platforms, ", "))
		}
	}
	return p.Err()
}

func checkWords(p *Problems, at string, words []string) {
	if len(words) == 0 {
		p.Addf(at, "empty")
	}
	for i, w := range words {
		switch {
		case !isText(w):
			p.Addf(fmt.Sprintf("%s[%d]", at, i), "%q is not a name", w)
		case slices.Contains(words[:i], w):
			p.Addf(fmt.Sprintf("%s[%d]", at, i), "%q stands here twice", w)
		}
	}
}

// isText reports whether s can be shown as it is, in one line, without spaces around it.
func isText(s string) bool {
	return s != "" && s == strings.TrimSpace(s) && IsPrintable(s)
}

func (t Toolkit) check() error {
	var p Problems
	checkVersion(&p, "cuda", t.CUDA)
	checkVersion(&p, "nvcc", t.NVCC)
	checkVersion(&p, "driver_cubin", t.DriverCubin)
	if t.DriverPTX != "" {
		checkVersion(&p, "driver_ptx", t.DriverPTX)
	}
	if len(p) > 0 {
		return p
	}
	if want := ToolkitName(t.CUDA); t.Name != want {
		p.Addf("name", "%q, but a toolkit of CUDA %s is %q", t.Name, t.CUDA, want)
	}
	if why, refused := broken[t.release()]; refused {
		p.Addf("cuda", "CUDA %s is refused: %s", t.CUDA, why)
		return p
	}
	if t.Codes() == nil {
		p.Addf("cuda", "which SMs CUDA %s compiles for is not known here", t.CUDA)
	}
	if !strings.HasPrefix(t.NVCC+".", t.release()+".") {
		p.Addf("nvcc", "%s is not of CUDA %s", t.NVCC, t.CUDA)
	}
	if t.DriverPTX != "" && CompareVersions(t.DriverPTX, t.DriverCubin) < 0 {
		p.Addf("driver_ptx", "%s is older than driver_cubin %s", t.DriverPTX, t.DriverCubin)
	}
	return p.Err()
}

// Codes are what the toolkit compiles for, plain ones first; none where its release is not known here.
func (t Toolkit) Codes() []Code {
	var codes []Code
	for _, sm := range compiles[t.release()].plain {
		codes = append(codes, Code{SM: sm})
	}
	for _, sm := range compiles[t.release()].specific {
		codes = append(codes, Code{sm, "a"})
	}
	return codes
}

// release is "12.4" for CUDA 12.4.1.
func (t Toolkit) release() string {
	parts := strings.SplitN(t.CUDA, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

func (f Floors) check() error {
	var p Problems
	checkVersion(&p, "glibc", f.Glibc)
	checkVersion(&p, "glibcxx", f.GLIBCXX)
	return p.Err()
}

func (l LlamaPin) check() error {
	var p Problems
	if u, err := url.Parse(l.Repository); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		p.Addf("repository", "%q is not an https address", l.Repository)
	}
	if !refForm.MatchString(l.Ref) {
		p.Addf("ref", "%q is not a tag or branch", l.Ref)
	}
	checkVersion(&p, "version", l.Version)
	if !commitForm.MatchString(l.Commit) {
		p.Addf("commit", "%q is not 40 hex digits", l.Commit)
	}
	if !commitForm.MatchString(l.Tree) {
		p.Addf("tree", "%q is not 40 hex digits", l.Tree)
	}
	if l.Build < 0 {
		p.Addf("build", "%d is negative", l.Build)
	}
	if l.Epoch < 0 {
		p.Addf("epoch", "%d is negative", l.Epoch)
	}
	if l.NPMPackage+l.NPMCommit+l.NPMIntegrity+l.BundlePath == "" {
		return p.Err()
	}
	if l.NPMCommit != "" && !commitForm.MatchString(l.NPMCommit) {
		p.Addf("npm_commit", "%q is not 40 hex digits", l.NPMCommit)
	}
	if !npmPackageForm.MatchString(l.NPMPackage) {
		p.Addf("npm_package", "%q is not name@1.2.3", l.NPMPackage)
	}
	const sha512Size = 64
	digest, ok := strings.CutPrefix(l.NPMIntegrity, "sha512-")
	if raw, err := base64.StdEncoding.Strict().DecodeString(digest); !ok || err != nil || len(raw) != sha512Size {
		p.Addf("npm_integrity", "%q is not sha512- and 64 bytes in base64", l.NPMIntegrity)
	}
	checkPath(&p, "bundle_path", l.BundlePath)
	return p.Err()
}

func checkVersion(p *Problems, at, version string) {
	if !IsVersion(version) {
		p.Addf(at, "%q is not dotted numbers", version)
	}
}

func checkPath(p *Problems, at, name string) {
	if !isText(name) || path.Clean("/"+name) != "/"+name || name == "" {
		p.Addf(at, "%q is not a relative path", name)
	}
}

// CheckModels reports everything wrong with a list of models, as Problems: each model, the order by name, and names or
// aliases that two models share, whatever their case.
func CheckModels(models []Model) error {
	var p Problems
	owner := make(map[string]string)
	for i, m := range models {
		at := fmt.Sprintf("[%d]", i)
		p.Under(at, m.check())
		if i > 0 && m.Name <= models[i-1].Name {
			p.Addf(at+".name", "%q comes after %q: models ascend by name", m.Name, models[i-1].Name)
		}
		for _, name := range append([]string{m.Name}, m.Aliases...) {
			key := strings.ToLower(name)
			if other, taken := owner[key]; taken {
				p.Addf(at, "%q is already a name of %s", name, other)
			}
			owner[key] = m.Name
		}
	}
	return p.Err()
}

func (m Model) check() error {
	var p Problems
	if !modelNameForm.MatchString(m.Name) {
		p.Addf("name", "%q is not a name", m.Name)
	}
	for i, alias := range m.Aliases {
		if !modelNameForm.MatchString(alias) {
			p.Addf(fmt.Sprintf("aliases[%d]", i), "%q is not a name", alias)
		}
	}
	for _, repo := range []struct{ at, name string }{{"repo", m.Repo}, {"source", m.Source}} {
		if !repoForm.MatchString(repo.name) {
			p.Addf(repo.at, "%q is not owner/name", repo.name)
		}
	}
	if m.Revision != "" && !commitForm.MatchString(m.Revision) {
		p.Addf("revision", "%q is not 40 hex digits: a branch may move", m.Revision)
	}
	checkPath(&p, "file", m.File)
	if !strings.HasSuffix(m.File, ".gguf") {
		p.Addf("file", "%q is not a .gguf", m.File)
	}
	if m.SHA256 != "" && !sha256Form.MatchString(m.SHA256) {
		p.Addf("sha256", "%q is not 64 lower-case hex digits", m.SHA256)
	}
	if (m.SHA256 == "") != (m.Size == 0) || m.Size < 0 {
		p.Addf("size", "%d: size and sha256 are given together or not at all", m.Size)
	}
	if !licenceForm.MatchString(m.Licence) {
		p.Addf("licence", "%q is not a licence's short name", m.Licence)
	}
	if m.VRAM < 0 {
		p.Addf("vram_mib", "%d is negative", m.VRAM)
	}
	return p.Err()
}
