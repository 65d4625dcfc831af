// Package home says where on a machine llcuda-fetch keeps what it installs.
//
// fetch calls it for every command, and launch before anything else of the client is there; so it
// imports only what costs a process nothing to have. detect asks it for the notebooks, whose
// folders the store goes by.
package home

import (
	"errors"
	"os"
	"path"
)

const name = "llcuda"

// Marker is the file in a folder that makes it a store.
const Marker = "llcuda-store"

// Notebook is the notebook service that a machine belongs to: "kaggle", "colab" or "". Kaggle's
// image is made from Colab's, and keeps its variables, so Kaggle is asked first. exists reports
// whether there is a path, which is given without its first slash.
func Notebook(getenv func(string) string, exists func(path string) bool) string {
	switch {
	case getenv("KAGGLE_KERNEL_RUN_TYPE") != "" || getenv("KAGGLE_URL_BASE") != "" || exists("kaggle/working"):
		return "kaggle"
	case getenv("COLAB_RELEASE_TAG") != "" || getenv("COLAB_GPU") != "":
		return "colab"
	}
	return ""
}

// A FolderError is a folder that was given in a form that only a shell reads.
type FolderError struct{ Given, Problem string }

func (e *FolderError) Error() string {
	return "reading the store's folder, " + e.Given + ": " + e.Problem
}

// Hint says what helps.
func (e *FolderError) Hint() string { return "give --home or LLCUDA_HOME an absolute path" }

// expanded is a folder with what a shell would have expanded, which reads neither quoted values nor
// --home=~/x. A variable that is not set stays as it is written, as in Python's os.path.expandvars,
// by which the Hub's tools read HF_HOME.
func expanded(given string, getenv func(string) string) (string, error) {
	if last := len(given) - 1; last > 0 && given[0] == given[last] && (given[0] == '"' || given[0] == '\'') {
		return "", &FolderError{given, "the quotes are part of the value: leave them out"}
	}
	if given != "" && given[0] == '~' {
		user := getenv("HOME")
		switch {
		case len(given) > 1 && given[1] != '/':
			return "", &FolderError{given, "other users' folders are not looked up"}
		case !path.IsAbs(user):
			return "", &FolderError{given, "HOME is not set"}
		}
		given = path.Join(user, given[1:])
	}
	return os.Expand(given, func(name string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return "$" + name
	}), nil
}

// Store is the store's folder: the one given, in which ~ and variables are expanded, else
// /content/.cache/llcuda on Colab and /kaggle/working/.cache/llcuda on Kaggle, where a notebook's
// files are kept, else llcuda in the user's cache folder.
func Store(given string, getenv func(string) string) (string, error) {
	given, err := expanded(given, getenv)
	if err != nil {
		return "", err
	}
	if path.IsAbs(given) {
		return path.Clean(given), nil
	}
	if given != "" {
		here, err := os.Getwd()
		return path.Join(here, given), err
	}
	switch Notebook(getenv, onThisMachine) {
	case "colab":
		return "/content/.cache/" + name, nil
	case "kaggle":
		return "/kaggle/working/.cache/" + name, nil
	}
	if cache := getenv("XDG_CACHE_HOME"); path.IsAbs(cache) {
		return path.Join(cache, name), nil
	}
	if user := getenv("HOME"); path.IsAbs(user) {
		return path.Join(user, ".cache", name), nil
	}
	return "", errors.New("finding a folder for the store: neither HOME nor XDG_CACHE_HOME is set: give one with --home or LLCUDA_HOME")
}

func onThisMachine(inside string) bool {
	_, err := os.Stat("/" + inside)
	return err == nil
}
