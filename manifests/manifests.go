// Package manifests is the contract between the farm, which makes releases, and llcuda-fetch, which
// installs from them. The bundler and the publisher write its documents, the client reads them;
// both through this package alone, so that neither can mean something else by a field. It imports
// no network, no terminal and no archive format.
//
// # What a release is
//
// A release is one flat folder, on any web server, mirror or disk:
//
//	llcuda-bins-sm75.tar.gz          a bundle: llama.cpp for one SM (KindBundle)
//	llcuda-bins-sm75.tar.zst         the very same tar, smaller
//	llcuda-cudart-….tar.gz/.zst      CUDA's libraries, for one SM major (cu12-sm7x) or for a toolkit (cu13), named by that
//	                                 and the first 12 hex digits of the tar's sha256 (KindCUDART)
//	llcuda-fetch-linux-amd64.tar.gz  the client, for each architecture, and install.sh, which brings it (KindClient)
//	llcuda-3.0.0-py3-none-any.whl    the Python package, by itself, and with the client of linux-amd64 in it (KindClient)
//	llcuda-bins-sm75.spdx.json       the bill of materials of each bundle, client and wheel, by its stem (KindSBOM)
//	llcuda-provenance.sigstore.json  a signed statement of how the archives were built, all of them (KindProvenance)
//	llcuda-bench.json                how fast the bundles are, if that was measured (KindProvenance)
//	manifest.json                    a Release: every asset, what it needs, and the models offered with it
//	SHA256SUMS                       the sha256 of every file above, manifest.json included, in GNU's format
//	SHA256SUMS.sigstore.json         the signature over SHA256SUMS
//
// Each bundle holds one top folder of its own name with metadata.json in it: the Metadata of that
// bundle.
//
// # Trust
//
// Nothing is trusted before what vouches for it has been verified:
//
//	signature → SHA256SUMS → manifest.json → asset → file in the archive
//
// A reader verifies the signature over the bytes of SHA256SUMS, then that the bytes of
// manifest.json have the sum listed there, then decodes it. An asset is what the manifest says when
// its size and sha256 are; its tar when Tar is; a file in it when the size, mode and sha256 (or
// link target) that metadata.json lists are, with nothing missing and nothing extra, and
// metadata.json agrees with the manifest's asset. URLs are relative to manifest.json, so a mirror
// is a copy of the folder and needs no trust of its own. Decoding is not a substitute for any of
// this: it only makes sure that what was signed is well-formed, and that no reader and no writer
// can disagree on what it says.
//
// A reader that asked for a release by its tag also compares the tag with the manifest's, and with
// the one that the signing workflow ran for. Bills of materials and the provenance are for people
// and for their tools: a reader who installs needs neither. The provenance has a signature of its
// own, over the digests of the archives, so that it can be judged without the release.
//
// # The current release
//
// Nothing in a release says that it is the newest. That is what the release pointer is for, one
// small file beside all releases: on the branch "pointer" of the farm's repository, and on a mirror
// with a folder for each release at current/current.sigstore.json. A folder with one release alone
// may have one, too, on a web server.
//
//	current.sigstore.json            a Sigstore bundle: a DSSE envelope with an in-toto statement, and its signature
//	  subject                        manifest.json, by its sha256
//	  predicate                      a Pointer: release, number, issued, expires
//
// A reader that was given no tag verifies the pointer's signature, whose signer is not that of
// releases: a pointer is renewed by the clock, from the default branch, while a release is signed
// once, from its tag. Then it checks the pointer against its clock (issued, expires) and against
// the greatest number that it ever saw from this signer, which it keeps; then it resolves exactly
// the release named, and its manifest.json must have the sha256 named. So an attacker cannot roll
// it back to an older release, nor keep it at the one that it has for longer than a pointer lives;
// what is missing or late is an error, never a reason to believe something else. A farm withdraws a
// bad release by a pointer with a greater number that names an older release. A reader that names a
// tag does not need a pointer.
//
// # Strictness
//
// Documents are JSON in UTF-8 with exactly the fields of the Go types. Unknown, missing, duplicate
// and null fields, optional fields with an empty value, text that cannot be printed in one line,
// anything after the document, and documents over the size limits are errors; each names its path,
// and all are reported at once. Names are [A-Za-z0-9._-]+ with no dot in front, digests 64
// lower-case hex digits; lists whose order means nothing are sorted, and none repeats itself.
// Encode writes each value in one way only, byte for byte.
//
// # Versions
//
// The release pointer's version is at the end of its predicate's type. Readers are strict, so every
// change of the fields or of what may be in them, an added field and an added Kind included, is a
// new SchemaVersion. schema_version is looked at first: a reader that meets a newer one than its
// own returns a *VersionError, which means "get a newer client", and looks no further. Farms move
// to a new version only when clients that read it have been released; readers keep reading every
// version that a release still has.
package manifests
