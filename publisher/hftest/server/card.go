package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// frontMatter is the head of a model card.
var frontMatter = regexp.MustCompile(`(?s)\A---\n(.*?)\n---(?:\n|\z)`)

// Of the Hub's lists, those that cards here may name: https://huggingface.co/docs/hub/repositories-licenses
var (
	licences  = []string{"apache-2.0", "mit", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "other", "unknown"}
	pipelines = []string{"text-generation", "image-text-to-text", "feature-extraction"}
	repoID    = regexp.MustCompile(`^[\w.-]+/[\w.-]+$`)
)

// validate checks a card's head as the Hub does: what is wrong is an error, what is missing a warning.
func validate(w http.ResponseWriter, r *http.Request) {
	var asked struct{ RepoType, Content string }
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		say(w, http.StatusBadRequest, "", err.Error())
		return
	}
	type message struct {
		Message string `json:"message"`
	}
	errs, warnings := []message{}, []message{}
	wrong := func(format string, args ...any) { errs = append(errs, message{fmt.Sprintf(format, args...)}) }
	match := frontMatter.FindStringSubmatch(asked.Content)
	var head map[string]any
	switch {
	case match == nil:
		warnings = append(warnings, message{"empty or missing yaml metadata in repo card"})
	default:
		if err := yaml.Unmarshal([]byte(match[1]), &head); err != nil {
			wrong("%v", err)
		}
	}
	texts := func(name string) []string {
		switch value := head[name].(type) {
		case nil:
		case string:
			return []string{value}
		case []any:
			var list []string
			for _, v := range value {
				text, ok := v.(string)
				if !ok {
					wrong("%q must be a list of texts", name)
				}
				list = append(list, text)
			}
			return list
		default:
			wrong("%q must be a text or a list of texts", name)
		}
		return nil
	}
	for _, licence := range texts("license") {
		if !slices.Contains(licences, licence) {
			wrong("\"license\" must be one of [%s]", strings.Join(licences, ", "))
		}
		if licence == "other" && head["license_name"] == nil {
			wrong(`"license_name" is required with "license: other"`)
		}
	}
	for _, name := range texts("base_model") {
		if !repoID.MatchString(name) {
			wrong("\"base_model\" with value %q is not valid. Use a model id from https://hf.co/models.", name)
		}
	}
	for _, name := range texts("pipeline_tag") {
		if !slices.Contains(pipelines, name) {
			wrong("\"pipeline_tag\" must be one of [%s]", strings.Join(pipelines, ", "))
		}
	}
	texts("tags")
	texts("library_name")
	status := http.StatusOK
	if len(errs) > 0 {
		status = http.StatusBadRequest
	}
	sayJSON(w, status, map[string]any{"errors": errs, "warnings": warnings})
}
