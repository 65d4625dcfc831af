package hub

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// splitForm is how llama.cpp names the parts of a model: llama_split_path in
// https://github.com/ggml-org/llama.cpp/blob/master/src/llama.cpp
var splitForm = regexp.MustCompile(`^(.+)-([0-9]{5})-of-([0-9]{5})(?i:(\.gguf))$`)

// Parts are the paths of all files of the model that a file belongs to, in order: its own, or those of a set
// NAME-00001-of-00003.gguf. llama.cpp is given the first one.
func Parts(file string) []string {
	match := splitForm.FindStringSubmatch(file)
	if match == nil {
		return []string{file}
	}
	number, _ := strconv.Atoi(match[2])
	count, _ := strconv.Atoi(match[3])
	if number < 1 || number > count || count > maxParts {
		return []string{file}
	}
	parts := make([]string, count)
	for i := range parts {
		parts[i] = fmt.Sprintf("%s-%05d-of-%05d%s", match[1], i+1, count, match[4])
	}
	return parts
}

// maxParts keeps a name from standing for any number of requests. The largest models have about a hundred parts.
const maxParts = 1000

func isGGUF(file string) bool { return strings.EqualFold(path.Ext(file), ".gguf") }

// besides are in the names of files that go with a model and are none: gguf_filename_is_model in
// https://github.com/ggml-org/llama.cpp/blob/master/common/download.cpp
var besides = []string{"mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"}

// isModel reports whether a file is a model, or the first part of one, by its name.
func isModel(file string) bool {
	name := strings.ToLower(path.Base(file))
	return isGGUF(file) && Parts(file)[0] == file && !slices.ContainsFunc(besides, func(word string) bool { return strings.Contains(name, word) })
}

func isProjector(file string) bool {
	return isGGUF(file) && strings.Contains(strings.ToLower(path.Base(file)), "mmproj")
}

// DefaultQuant is what a repository's name alone stands for, where it has that; else it is Q8_0, else the first file.
const DefaultQuant = "Q4_K_M"

// latest is what ollama's users write for no quantization in particular.
const latest = "latest"

// choose gives the file that a name without a path stands for among a repository's files, by the rule of llama.cpp's
// -hf, find_best_model in common/download.cpp: the first that has the quantization in its name, in any case, followed
// by a dot or a hyphen. Unlike there, no letter or digit stands before it: F16 is not BF16. Where no name has it, a
// folder's may.
func choose(files []string, n Name, fits func(string) bool) (string, bool) {
	var candidates []string
	for _, file := range slices.Sorted(slices.Values(files)) {
		if fits(file) && (n.Folder == "" || strings.HasPrefix(file, n.Folder+"/")) {
			candidates = append(candidates, file)
		}
	}
	if n.Quant != "" {
		if slices.Contains(files, n.Quant) { // a file without an extension
			return n.Quant, true
		}
		if file, ok := withQuant(candidates, n.Quant); ok || !strings.EqualFold(n.Quant, latest) {
			return file, ok
		}
	}
	for _, quant := range []string{DefaultQuant, "Q8_0"} {
		if file, ok := withQuant(candidates, quant); ok {
			return file, true
		}
	}
	if len(candidates) == 0 {
		return "", false
	}
	return candidates[0], true
}

func withQuant(files []string, quant string) (string, bool) {
	for _, end := range []string{`[.-]`, `/`} {
		form := regexp.MustCompile(`(?i)(^|[^a-z0-9])` + regexp.QuoteMeta(quant) + end)
		if at := slices.IndexFunc(files, form.MatchString); at >= 0 {
			return files[at], true
		}
	}
	return "", false
}

// projector gives the best projector for a model among a repository's files, by llama.cpp's rule, find_best_sibling in
// common/download.cpp: of those in the model's folder or one above it the deepest, then the one with the closest number of
// bits in its name.
func projector(files []string, model string) (string, bool) {
	best, bestDepth, bestDistance := "", -1, 0
	for _, file := range slices.Sorted(slices.Values(files)) {
		folder := path.Dir(file)
		if !isProjector(file) || folder != "." && !strings.HasPrefix(model, folder+"/") {
			continue
		}
		depth := strings.Count(file, "/")
		distance := bits(file) - bits(model)
		distance = max(distance, -distance)
		if depth > bestDepth || depth == bestDepth && distance < bestDistance {
			best, bestDepth, bestDistance = file, depth, distance
		}
	}
	return best, best != ""
}

var (
	lastWord    = regexp.MustCompile(`[-.]([A-Za-z0-9_]+)$`)
	firstNumber = regexp.MustCompile(`[0-9]+`)
)

// bits are those of a quantization: 4 of Q4_K_M, 16 of BF16, 0 where a name has none.
func bits(file string) int {
	name := file
	if match := splitForm.FindStringSubmatch(file); match != nil {
		name = match[1]
	} else {
		name = strings.TrimSuffix(name, path.Ext(name))
	}
	word := lastWord.FindStringSubmatch(name)
	if word == nil {
		return 0
	}
	n, _ := strconv.Atoi(firstNumber.FindString(word[1]))
	return n
}

// models lists what there is to choose from, for people: of a set of parts the first one.
func models(files []string) []string {
	var list []string
	for _, file := range slices.Sorted(slices.Values(files)) {
		if isGGUF(file) && Parts(file)[0] == file {
			list = append(list, file)
		}
	}
	return list
}

// set gives the first part of a set that is named without its number: model.gguf for model-00001-of-00003.gguf.
func set(files []string, file string) (string, bool) {
	stem := strings.TrimSuffix(file, path.Ext(file))
	for _, first := range slices.Sorted(slices.Values(files)) {
		if match := splitForm.FindStringSubmatch(first); match != nil && isGGUF(file) && match[1] == stem && Parts(first)[0] == first {
			return first, true
		}
	}
	return "", false
}
