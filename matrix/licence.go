package matrix

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// A Licence allows models under it to be redistributed if its conditions are met. Licenses that do not allow that, or
// allow it only to some, are not listed; models under an unlisted license are not published.
type Licence struct {
	// ID is the Hub's short name: https://huggingface.co/docs/hub/repositories-licenses
	ID string
	// Name and Link are for people.
	Name, Link string
	// Text is the license itself; every license requires a copy beside the files. It is empty where parts of it
	// differ from model to model, or where we may not keep a copy: the publisher supplies it then.
	Text string
	// Notice must stand in a file NOTICE beside the files.
	Notice string
	// Display must be shown where the files are offered.
	Display string
	// Prefix is what the names of published files begin with, whatever its case.
	Prefix string
}

//go:embed licences/apache-2.0.txt
var apacheText string

// licences are sorted by ID. Their conditions were read in their own words:
//
//   - apache-2.0, section 4: a copy of the license, and a notice in files that were changed;
//   - mit: the copyright line and the text, both the model's own;
//   - gemma, section 3.1: a copy of the terms, a NOTICE with that line, and a notice in files that were changed;
//   - llama, section 1.b: a copy of the agreement, a NOTICE with that line, "Built with Llama", and a name that begins
//     with it.
var licences = []Licence{
	{ID: "apache-2.0", Name: "Apache License 2.0", Link: "https://www.apache.org/licenses/LICENSE-2.0", Text: apacheText},
	{ID: "gemma", Name: "Gemma Terms of Use", Link: "https://ai.google.dev/gemma/terms",
		Notice: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"},
	{ID: "llama3.1", Name: "Llama 3.1 Community License", Link: "https://www.llama.com/llama3_1/license/",
		Notice:  "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
		Display: "Built with Llama", Prefix: "Llama"},
	{ID: "llama3.2", Name: "Llama 3.2 Community License", Link: "https://www.llama.com/llama3_2/license/",
		Notice:  "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
		Display: "Built with Llama", Prefix: "Llama"},
	{ID: "mit", Name: "MIT License", Link: "https://opensource.org/license/mit"},
}

// A LicenceError is a model that may not be redistributed: its license is not among those known to allow it, or it
// is offered under a name that the license forbids.
type LicenceError struct {
	Model, Licence string
	// Prefix is what its name had to begin with; empty where the license is not known.
	Prefix string
}

func (e *LicenceError) Error() string {
	if e.Prefix != "" {
		return fmt.Sprintf("%s may not be published under that name: %s requires names that begin with %s", e.Model, e.Licence, e.Prefix)
	}
	return fmt.Sprintf("%s may not be published: %q is not among the licenses known to allow it", e.Model, e.Licence)
}

// Hint says what helps.
func (e *LicenceError) Hint() string {
	if e.Prefix != "" {
		return "give it another name in matrix/models.yaml"
	}
	var known []string
	for _, l := range licences {
		known = append(known, l.ID)
	}
	return "known are " + strings.Join(known, ", ") + "; read the license, then list it with its requirements in matrix/licence.go"
}

// Redistribution returns the license under which a model may be redistributed. Its error is a *LicenceError.
func (m Model) Redistribution() (Licence, error) {
	i := slices.IndexFunc(licences, func(l Licence) bool { return l.ID == m.Licence })
	if i < 0 {
		return Licence{}, &LicenceError{Model: m.Name, Licence: m.Licence}
	}
	l := licences[i]
	if !strings.HasPrefix(strings.ToLower(m.Name), strings.ToLower(l.Prefix)) {
		return Licence{}, &LicenceError{Model: m.Name, Licence: l.Name, Prefix: l.Prefix}
	}
	return l, nil
}
