package fetch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
)

// ServerName is llama.cpp's server.
const ServerName = "llama-server"

// A VariableError is an environment variable whose path leads nowhere.
type VariableError struct {
	Variable, Value string
	Err             error
}

func (e *VariableError) Error() string {
	return fmt.Sprintf("looking for the %s that %s names, %s: %v", ServerName, e.Variable, e.Value, e.Err)
}
func (e *VariableError) Unwrap() error { return e.Err }

// Hint says what helps.
func (e *VariableError) Hint() string {
	return "correct " + e.Variable + ", or unset it to use the installed one"
}

// OwnServer is the llama-server that the user built: the one that LLAMA_SERVER_PATH names, or that
// lies in the folder of LLAMA_CPP_DIR. It is empty where there is none; `env` prints both
// variables, so those that lead into the store do not count.
func (c *Client) OwnServer(getenv func(string) string) (string, error) {
	const pathVariable, folderVariable = "LLAMA_SERVER_PATH", "LLAMA_CPP_DIR"
	if program := getenv(pathVariable); program != "" && !c.inStore(program) {
		info, err := os.Stat(program)
		if err == nil && !info.Mode().IsRegular() {
			err = errors.New("not a file")
		}
		if err != nil {
			return "", &VariableError{pathVariable, program, err}
		}
		return filepath.Abs(program)
	}
	folder := getenv(folderVariable)
	if folder == "" || c.inStore(folder) {
		return "", nil
	}
	for _, inside := range []string{"bin", "build/bin"} {
		program := filepath.Join(folder, inside, ServerName)
		if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() {
			return filepath.Abs(program)
		}
	}
	c.warn("%s is set, and there is no %s in bin or build/bin of %s: the one that is installed is used", folderVariable, ServerName, folder)
	return "", nil
}

// inStore reports whether a path, which may no longer exist, leads into the store.
func (c *Client) inStore(path string) bool {
	real := func(path string) string {
		path, _ = filepath.Abs(path)
		for rest := ""; ; rest, path = filepath.Join(filepath.Base(path), rest), filepath.Dir(path) {
			if resolved, err := filepath.EvalSymlinks(path); err == nil {
				return filepath.Join(resolved, rest)
			}
			if path == filepath.Dir(path) {
				return filepath.Join(path, rest)
			}
		}
	}
	inside := func(path, folder string) bool {
		return strings.HasPrefix(path+string(filepath.Separator), folder+string(filepath.Separator))
	}
	return inside(real(path), real(c.Store.Home))
}

// ModelSize is the size of a model's file, or of all its parts by the first; 0 where one is
// missing.
func ModelSize(path string) int64 {
	var size int64
	for _, part := range hub.Parts(filepath.Base(path)) {
		info, err := os.Stat(filepath.Join(filepath.Dir(path), part))
		if err != nil {
			return 0
		}
		size += info.Size()
	}
	return size
}
