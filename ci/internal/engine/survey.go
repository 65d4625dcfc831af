package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// A Survey is what a llama.cpp tree has of what the farm compiles, sets and passes on. Two of them tell what one release
// changed. What belongs to backends that the farm does not compile, to examples and to tests is not in it.
type Survey struct {
	Options  []string          // that the CMake files take
	Defaults map[string]string // of those options whose default stands in the file; it may be a variable
	Renamed  map[string]string // options that the CMake files warn of, and the names that they suggest; empty if none
	Unset    []string          // options of the recipe that this tree lacks, and that are left out for it
	Programs []string
	// Libraries are those that the CMake files make, without interfaces and aliases.
	Libraries []string
	CUDA      []string // functions of CUDA's libraries that the CUDA backend calls
	Linked    []string // libraries of the toolkit that the CUDA backend's CMake files name
	// Licenses are the digests of the license texts and of the notices in source files, by their paths.
	Licenses map[string]string
	// PageLicenses are the licenses of the npm packages that the web UI's lock file names.
	PageLicenses []string
}

// unbuilt are the folders that the farm does not compile, wherever they are: the recipe switches off what is in them.
var unbuilt = []string{"examples", "tests", "pocs", "docs", "scripts"}

// own are the backends that the farm compiles, by the names of their folders.
var own = []string{"ggml-cpu", "ggml-cuda"}

// ReadSurvey reads a source that ResolveSource found. It reads every tree, whether it can be built or not.
func ReadSurvey(src farm.Source) (Survey, error) {
	root, err := os.OpenRoot(src.Dir)
	if err != nil {
		return Survey{}, fmt.Errorf("reading the source: %w", err)
	}
	defer root.Close()
	s, err := survey(root.FS(), src)
	if err != nil {
		return Survey{}, fmt.Errorf("reading the source: %w", err)
	}
	return s, nil
}

func survey(fsys fs.FS, src farm.Source) (Survey, error) {
	all, err := readCMake(fsys)
	if err != nil {
		return Survey{}, err
	}
	others, err := otherBackends(fsys)
	if err != nil {
		return Survey{}, err
	}
	compiled := cmakeFiles{}
	for name, text := range all {
		if !elsewhere(name, others) {
			compiled[name] = text
		}
	}
	s := Survey{Defaults: map[string]string{}, Renamed: compiled.renamed(), Licenses: map[string]string{}}
	for name := range compiled.options("") {
		if (strings.HasPrefix(name, "GGML_") || strings.HasPrefix(name, "LLAMA_")) && !optionOf(name, others) {
			s.Options = append(s.Options, name)
		}
	}
	host, cuda := cmakeArguments(src)
	s.Unset = append(dropped(host, all.options("")), dropped(cuda, all.options("ggml"))...)
	for _, name := range slices.Sorted(maps.Keys(compiled)) { // of two defaults, always the same one counts
		text := compiled[name]
		for _, match := range optionDefault.FindAllStringSubmatch(text, -1) {
			if slices.Contains(s.Options, match[1]) {
				s.Defaults[match[1]] = match[2]
			}
		}
		programs, libraries := targets(text)
		s.Programs, s.Libraries = append(s.Programs, programs...), append(s.Libraries, libraries...)
	}
	for _, match := range toolkitTarget.FindAllString(all[cudaFolder+"/CMakeLists.txt"], -1) {
		s.Linked = append(s.Linked, match)
	}
	err = fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git" || elsewhere(name+"/", others)):
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		return s.file(fsys, name)
	})
	if err != nil {
		return Survey{}, err
	}
	if err := s.page(fsys); err != nil {
		return Survey{}, err
	}
	for _, list := range []*[]string{&s.Options, &s.Unset, &s.Programs, &s.Libraries, &s.CUDA, &s.Linked, &s.PageLicenses} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return s, nil
}

const cudaFolder = "ggml/src/ggml-cuda"

// otherBackends are the folders of ggml's backends that the farm does not compile.
func otherBackends(fsys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(fsys, "ggml/src")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var others []string
	for _, entry := range entries {
		if name := entry.Name(); entry.IsDir() && strings.HasPrefix(name, "ggml-") && !slices.Contains(own, name) {
			others = append(others, name)
		}
	}
	return others, err
}

// elsewhere reports whether a path is in a folder that the farm does not compile.
func elsewhere(name string, others []string) bool {
	folders := strings.Split(name, "/")
	if slices.ContainsFunc(folders[:len(folders)-1], func(folder string) bool { return slices.Contains(unbuilt, folder) }) {
		return true
	}
	return slices.ContainsFunc(others, func(folder string) bool { return strings.HasPrefix(name, "ggml/src/"+folder+"/") })
}

// optionOf reports whether an option is that of one of the backends: GGML_VULKAN and GGML_VULKAN_DEBUG are those of ggml-vulkan.
func optionOf(name string, backends []string) bool {
	return slices.ContainsFunc(backends, func(folder string) bool {
		prefix := strings.ToUpper(strings.ReplaceAll(folder, "-", "_"))
		return name == prefix || strings.HasPrefix(name, prefix+"_")
	})
}

// dropped are the optional options of a recipe that a tree does not have.
func dropped(args []string, options map[string]bool) []string {
	var names []string
	for _, arg := range args {
		if name := optionName(arg); optional[name] && !options[name] {
			names = append(names, name)
		}
	}
	return names
}

var (
	optionDefault = regexp.MustCompile(`(?i)\boption\s*\(\s*"?(\w+)"?\s+"[^"]*"\s+([^\s()]+)\s*\)`)
	toolkitTarget = regexp.MustCompile(`\bCUDA::\w+`)
	// newTarget is a call that makes a target, or gives a variable a value that may be the name of one.
	newTarget = regexp.MustCompile(`(?i)\b(set|add_executable|add_library|ggml_add_backend_library)\s*\(\s*"?([\w.:${}-]+)"?\s*([^()\s]*)\s*([^()\s]*)`)
	variable  = regexp.MustCompile(`\$\{(\w+)\}`)
)

// targets are the programs and libraries that a CMake file makes, as far as their names can be read: a variable has the
// value of the set before.
func targets(text string) (programs, libraries []string) {
	values := map[string]string{}
	for _, match := range newTarget.FindAllStringSubmatch(text, -1) {
		call, name, next := strings.ToLower(match[1]), match[2], strings.Trim(match[3], `"`)
		if call == "set" {
			values[name] = next
			continue
		}
		name = variable.ReplaceAllStringFunc(name, func(use string) string {
			if value, ok := values[use[2:len(use)-1]]; ok {
				return value
			}
			return use
		})
		switch {
		case strings.ContainsAny(name, "${}:"), next == "ALIAS", next == "INTERFACE", next == "IMPORTED", match[4] == "IMPORTED":
		case call == "add_executable":
			programs = append(programs, name)
		default:
			libraries = append(libraries, name)
		}
	}
	return programs, libraries
}

var (
	source      = regexp.MustCompile(`\.(c|cc|cpp|cu|cuh|h|hpp|inc)$`)
	licenseName = regexp.MustCompile(`(?i)^(licen[sc]e|copying|notice)`)
	// notice is what a comment says that claims a copyright or grants a license; licenses.sh looks for the same.
	notice = regexp.MustCompile(`(?i)copyright|licen[sc]ed under|licen[sc]e\]|public domain|SPDX-License`)
	// cudaCall is a call of a function of CUDA's runtime, of its driver, or of a library that comes with it. Types end in _t.
	cudaCall = regexp.MustCompile(`\b((?:cublasLt|cublas|cudnn|cufft|curand|cusolver|cusparse|cuda|nccl|nvml|nvtx|cu)[A-Z]\w*)\s*(?:<[^;(){}]*>\s*)?\(`)
	// lexeme is a comment or a string of C.
	lexeme = regexp.MustCompile(`(?s)//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"`)
)

// file adds what one file has.
func (s *Survey) file(fsys fs.FS, name string) error {
	top, _, _ := strings.Cut(name, "/")
	isLicense := licenseName.MatchString(path.Base(name)) && (top == "licenses" || top == "vendor" || top == name)
	if !isLicense && !source.MatchString(name) {
		return nil
	}
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	if isLicense {
		s.Licenses[name] = digest(string(text))
		return nil
	}
	var notices strings.Builder
	code := lexeme.ReplaceAllStringFunc(string(text), func(part string) string {
		if part[0] == '/' && notice.MatchString(part) {
			notices.WriteString(part)
		}
		return " "
	})
	if notices.Len() > 0 {
		s.Licenses[name] = digest(notices.String())
	}
	if strings.HasPrefix(name, cudaFolder+"/") && !strings.HasPrefix(name, cudaFolder+"/vendors/") {
		for _, match := range cudaCall.FindAllStringSubmatch(code, -1) {
			if !strings.HasSuffix(match[1], "_t") {
				s.CUDA = append(s.CUDA, match[1])
			}
		}
	}
	return nil
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// page adds the licenses that the web UI's lock file names.
func (s *Survey) page(fsys fs.FS) error {
	for _, project := range uiProjects {
		text, err := fs.ReadFile(fsys, path.Join(project, "package-lock.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var lock struct {
			Packages map[string]struct {
				License string `json:"license"`
			} `json:"packages"`
		}
		if json.Unmarshal(text, &lock) != nil {
			continue // whether the page can be built from it is for findUI to say
		}
		for _, pkg := range lock.Packages {
			if pkg.License != "" {
				s.PageLicenses = append(s.PageLicenses, pkg.License)
			}
		}
	}
	return nil
}
