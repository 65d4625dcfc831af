package manifests

import "fmt"

// A VersionError is a document of a schema that this program is too old for. Nothing is wrong with
// the document.
type VersionError struct {
	Document   string
	Got, Known int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has schema_version %d, this program knows %d: a newer version of it is needed", e.Document, e.Got, e.Known)
}
