package matrix

import _ "embed"

// ModelsYAML is models.yaml as it was when the program was compiled. matrix/spec reads it.
//
//go:embed models.yaml
var ModelsYAML []byte

// A Model is a GGUF file that the client knows by name. What is not known for certain is left out, never guessed.
type Model struct {
	Name    string   `json:"name"`
	Aliases []string `json:"aliases,omitempty"`
	// Repo is the Hugging Face repository that File is downloaded from.
	Repo string `json:"repo"`
	// Revision is the commit of Repo; without it, its main branch.
	Revision string `json:"revision,omitempty"`
	File     string `json:"file"`
	Size     int64  `json:"size,omitempty"`
	SHA256   string `json:"sha256,omitempty"`
	// Source is the repository of the weights that File was quantized from. Their license applies.
	Source  string `json:"source"`
	Licence string `json:"licence"`
	// VRAM is guidance: the memory in MiB that running the whole model on a GPU takes.
	VRAM int `json:"vram_mib,omitempty"`
}
