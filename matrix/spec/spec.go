// Package spec reads matrix.yaml and models.yaml into the types of package matrix. The farm's programs call it at
// start; what comes out has passed every check, what is wrong comes out as one error that names each problem with its
// line. It is the only place that knows YAML, so the client, which is served by JSON, does not link a parser for it.
package spec

import (
	"bytes"
	"fmt"
	"io"

	"github.com/waqasm86/llcuda-farm/matrix"
)

// Default is the matrix that the program was compiled with.
func Default() (matrix.Matrix, error) {
	m, err := Load(bytes.NewReader(matrix.YAML))
	if err != nil {
		return matrix.Matrix{}, fmt.Errorf("reading the built-in matrix.yaml: %w", err)
	}
	return m, nil
}

// DefaultModels are the models that the program was compiled with.
func DefaultModels() ([]matrix.Model, error) {
	models, err := LoadModels(bytes.NewReader(matrix.ModelsYAML))
	if err != nil {
		return nil, fmt.Errorf("reading the built-in models.yaml: %w", err)
	}
	return models, nil
}

// Load reads a matrix and checks it. Unknown, duplicate and missing keys are errors, and so is a value that YAML takes
// for another type than the one meant (an unquoted 2.35 is a number, and 2.30 would be 2.3).
func Load(r io.Reader) (matrix.Matrix, error) {
	var m matrix.Matrix
	if err := load(r, &m, func() error { return m.Check() }); err != nil {
		return matrix.Matrix{}, err
	}
	return m, nil
}

// LoadModels reads a list of models and checks it, as strictly as Load.
func LoadModels(r io.Reader) ([]matrix.Model, error) {
	var doc struct {
		Models []matrix.Model `json:"models"`
	}
	check := func() error {
		var p matrix.Problems
		p.Under("models", matrix.CheckModels(doc.Models))
		return p.Err()
	}
	if err := load(r, &doc, check); err != nil {
		return nil, err
	}
	return doc.Models, nil
}
