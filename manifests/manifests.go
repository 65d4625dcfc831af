// Package manifests is the contract between the farm, which makes releases, and llcuda-fetch, which installs from
// them. The bundler and the publisher write its documents, the client reads them; both through this package alone, so
// that neither can mean something else by a field. It imports no network, no terminal and no archive format.
//
// # What a release is
//
// A release is one flat folder, on any web server, mirror or disk:
//
//	llcuda-bins-sm75.tar.gz          a bundle: llama.cpp for one SM (KindBundle)
//	llcuda-bins-sm75.tar.zst         the very same tar at half the size
//	llcuda-cudart-cu12-….tar.gz/.zst the CUDA libraries, named by the first 12 hex digits of the tar's sha256 (KindCUDART)
//	…                                the client, bills of materials
//	manifest.json                    a Release: every asset, what it needs, and the models offered with it
//	SHA256SUMS                       the sha256 of every file above, manifest.json included, in GNU's format
//	SHA256SUMS.sigstore.json         the signature over SHA256SUMS
//
// Each bundle holds one top folder of its own name with metadata.json in it: the Metadata of that bundle.
//
// # Trust
//
// Nothing is believed before what vouches for it has been verified:
//
//	signature → SHA256SUMS → manifest.json → asset → file in the archive
//
// A reader verifies the signature over the bytes of SHA256SUMS, then that the bytes of manifest.json have the sum listed
// there, then decodes it. An asset is what the manifest says when its size and sha256 are; its tar when Tar is; a file
// in it when the size, mode and sha256 (or link target) that metadata.json lists are, with nothing missing and nothing
// extra, and metadata.json agrees with the manifest's asset. URLs are relative to manifest.json, so a mirror is a copy
// of the folder and needs no trust of its own. Decoding is no substitute for any of this: it only makes sure that what
// was signed is well-formed, and that no reader and no writer can disagree on what it says.
//
// # Strictness
//
// Documents are JSON in UTF-8 with exactly the fields of the Go types. Unknown, missing, duplicate and null fields,
// optional fields with an empty value, text that cannot be printed in one line, anything after the document, and documents
// over the size limits are errors; each names its path, and all are reported at once. Names are [A-Za-z0-9._-]+ with no
// dot in front, digests 64 lower-case hex digits; lists whose order means nothing are sorted, and none repeats itself.
// Encode writes each value in one way only, byte for byte.
//
// # Versions
//
// Readers are strict, so every change of the fields or of what may be in them, an added field and an added Kind included,
// is a new SchemaVersion. schema_version is looked at first: a reader that meets a newer one than its own returns a
// *VersionError, which means "get a newer client", and looks no further. Farms move to a new version only when
// clients that read it have been released; readers keep reading every version that a release still has.
package manifests
