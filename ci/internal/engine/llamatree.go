package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/engine/npm"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
)

// llamaTree is what differs from one release of llama.cpp to the next and matters to the stages. It is read from the
// files of the tree.
type llamaTree struct {
	ui      webUI
	options map[string]bool // that the CMake files take
	device  map[string]bool // those of ggml, which is all that the device half sees
}

// webUI is where the page comes from that llama-server embeds. Paths are relative to the tree.
type webUI struct {
	project  string   // the folder of the npm project to build it from; empty where the tree carries the page
	embedded string   // the folder that the server's build embeds
	assets   []string // the files there that it must have
}

// page are the files of the page that the tree carries.
func (ui webUI) page() []string {
	var files []string
	for _, asset := range ui.assets {
		files = append(files, path.Join(ui.embedded, asset))
	}
	return files
}

// What host.sh and device.sh make of a tree.
var (
	programs  = []string{"llama-server", "llama-cli", "llama-bench", "llama-quantize"}
	libraries = []string{"ggml", "ggml-base", "llama", "mtmd"}
)

// buildable is the hint for a source that the stages cannot build.
const buildable = "llama.cpp from b8390 (March 2026) on has what the stages need, as far as it was tried: give such a release with --llama, or leave it out for the pin"

// Buildable reports why the stages cannot build a source, as a *farm.SourceError; nil if they can. It asks no engine.
func Buildable(src farm.Source) error {
	_, err := readLlamaTree(src)
	return err
}

// readLlamaTree reads a source before any engine is looked for. A *farm.SourceError says why it cannot be built.
func readLlamaTree(src farm.Source) (llamaTree, error) {
	root, err := os.OpenRoot(src.Dir)
	if err != nil {
		return llamaTree{}, fmt.Errorf("reading the source: %w", err)
	}
	defer root.Close()
	cmake, err := readCMake(root.FS())
	if err != nil {
		return llamaTree{}, fmt.Errorf("reading the source's CMake files: %w", err)
	}
	tree := llamaTree{options: cmake.options(""), device: cmake.options("ggml")}
	var problems []string
	host, cuda := cmakeArguments(src)
	renamed := cmake.renamed()
	if unknown := append(unknownOptions(host, tree.options, renamed), unknownOptions(cuda, tree.device, renamed)...); len(unknown) > 0 {
		slices.Sort(unknown)
		problems = append(problems, "its CMake files have no option "+strings.Join(slices.Compact(unknown), ", "))
	}
	if missing := cmake.missingTargets(append(slices.Clone(programs), libraries...)); len(missing) > 0 {
		problems = append(problems, "its CMake files have no target "+strings.Join(missing, ", "))
	}
	var problem string
	if tree.ui, problem, err = findUI(root.FS(), cmake); err != nil {
		return llamaTree{}, fmt.Errorf("reading the source's web UI: %w", err)
	}
	if problem != "" {
		problems = append(problems, problem)
	}
	if len(problems) > 0 {
		return llamaTree{}, &farm.SourceError{Given: src.Given, Problem: "this llama.cpp cannot be built here: " + strings.Join(problems, "; "), Hint: buildable}
	}
	return tree, nil
}

// fit removes from a recipe the optional settings that this tree does not have.
func (t llamaTree) fit(recipe farm.Recipe) farm.Recipe {
	known := func(args []string, options map[string]bool) []string {
		return slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
			name := optionName(arg)
			return optional[name] && !options[name]
		})
	}
	recipe.HostCMake, recipe.CUDACMake = known(recipe.HostCMake, t.options), known(recipe.CUDACMake, t.device)
	return recipe
}

// optionName is NAME of -DNAME=VALUE.
func optionName(arg string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-D"), "=")
	return name
}

// unknownOptions returns the options that a recipe depends on and a tree does not define, or only knows by another name:
// CMake itself would ignore them.
func unknownOptions(args []string, options map[string]bool, renamed map[string]string) []string {
	var unknown []string
	for _, arg := range args {
		name := optionName(arg)
		switch to := renamed[name]; {
		case strings.HasPrefix(name, "CMAKE_"), name == "BUILD_SHARED_LIBS", options[name]:
		case to != "":
			unknown = append(unknown, name+" (it is "+to+" now)")
		case !optional[name]:
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// cmakeFiles are the texts of a tree's CMake files without their comments, by path.
type cmakeFiles map[string]string

var (
	cmakeComment = regexp.MustCompile(`(?m)(?:^|\s)#.*$`)
	// optionUses are the ways in which CMake files take what the command line says.
	optionUses = []*regexp.Regexp{
		regexp.MustCompile(`(?i)\b(?:cmake_dependent_)?option\s*\(\s*"?(\w+)`),
		regexp.MustCompile(`(?i)\bset\s*\(\s*(\w+)\s+(?:"[^"]*"|[^()"])*?\sCACHE\s`),
		regexp.MustCompile(`(?i)\bNOT\s+DEFINED\s+(\w+)`),
	}
	// deprecated is llama_option_depr(WARNING OLD NEW), or the same without NEW. It warns where OLD is ON and has no other effect.
	deprecated = regexp.MustCompile(`(?i)\b\w+_option_depr\s*\(\s*\w+\s+(\w+)[ \t]*(\w*)`)
	// targetUse is a call with a target as its first argument, whether CMake's own or a function of the tree. llama.cpp's
	// add_executable(${TARGET} follows a set(TARGET NAME).
	targetUse    = regexp.MustCompile(`(?i)\b(\w+)\s*\(\s*(?:TARGET\s+)?"?([\w.-]+)`)
	publicAssets = regexp.MustCompile(`(?i)\bset\s*\(\s*PUBLIC_ASSETS\s+([^()]+)\)`)
)

func readCMake(fsys fs.FS) (cmakeFiles, error) {
	files := cmakeFiles{}
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		switch base := path.Base(name); {
		case err != nil:
			return err
		case entry.IsDir() && (base == "node_modules" || base == ".git"):
			return fs.SkipDir
		case !entry.Type().IsRegular() || base != "CMakeLists.txt" && path.Ext(base) != ".cmake":
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		files[name] = cmakeComment.ReplaceAllString(string(text), "")
		return err
	})
	return files, err
}

// options are those that the files of a folder take.
func (c cmakeFiles) options(dir string) map[string]bool {
	found := map[string]bool{}
	for name, text := range c {
		if dir != "" && !strings.HasPrefix(name, dir+"/") {
			continue
		}
		for _, use := range optionUses {
			for _, match := range use.FindAllStringSubmatch(text, -1) {
				found[match[1]] = true
			}
		}
	}
	for name, to := range c.renamed() {
		if to == "" && optional[name] { // OFF, it does what the recipe wants
			found[name] = true
		}
	}
	return found
}

// renamed are the options that the files take no more, and their new names; empty where there is none.
func (c cmakeFiles) renamed() map[string]string {
	found := map[string]string{}
	for _, text := range c {
		for _, match := range deprecated.FindAllStringSubmatch(text, -1) {
			found[match[1]] = match[2]
		}
	}
	return found
}

func (c cmakeFiles) missingTargets(names []string) []string {
	found := map[string]bool{}
	for _, text := range c {
		for _, match := range targetUse.FindAllStringSubmatch(text, -1) {
			if !strings.EqualFold(match[1], "add_subdirectory") {
				found[match[2]] = true
			}
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return found[name] })
}

// uiProjects are the folders in which the web UI's npm project can be.
var uiProjects = []string{"tools/ui", "tools/server/webui"}

// findUI finds the web UI: in tools/ui, whose build embeds dist if that exists, or in
// tools/server/webui, whose build writes to the folder of the files that the server embeds. If it
// cannot be built, the prebuilt page in the tree is used.
func findUI(fsys fs.FS, cmake cmakeFiles) (ui webUI, problem string, err error) {
	const server = "tools/server"
	project := uiProjects[0]
	ui = webUI{embedded: "tools/ui/dist", assets: []string{"index.html"}}
	if _, err := fs.Stat(fsys, project); errors.Is(err, fs.ErrNotExist) {
		project = uiProjects[1]
		ui = webUI{embedded: server + "/public"}
		if match := publicAssets.FindStringSubmatch(cmake[server+"/CMakeLists.txt"]); match != nil {
			ui.assets = strings.Fields(match[1])
		}
		if len(ui.assets) == 0 {
			return webUI{}, "it has no tools/ui, and tools/server/CMakeLists.txt lists no PUBLIC_ASSETS: where llama-server takes its web UI from is not known", nil
		}
	}
	problem, err = unbuildable(fsys, project)
	if err != nil {
		return webUI{}, "", err
	}
	if problem == "" {
		ui.project = project
		return ui, "", nil
	}
	for _, file := range ui.page() {
		if info, err := fs.Stat(fsys, file); err != nil || !info.Mode().IsRegular() {
			return webUI{}, fmt.Sprintf("its web UI can be neither built (%s) nor taken as it is (there is no %s)", problem, file), nil
		}
	}
	return ui, "", nil
}

// unbuildable returns why an npm project cannot be built; empty if it can be.
func unbuildable(fsys fs.FS, project string) (string, error) {
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := fs.ReadFile(fsys, path.Join(project, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "there is no " + path.Join(project, name), nil
		case err != nil:
			return "", err
		case name == "package-lock.json":
			if err := npm.Check(text); err != nil {
				return path.Join(project, name) + ": " + strings.ReplaceAll(err.Error(), "\n", ", "), nil
			}
		}
	}
	return "", nil
}
