// Package bundler turns a built tree into the archives of a release, and takes them apart again to
// check them.
//
// The farm calls it once a tree is complete: Audit reads every file and refuses what breaks a rule
// of the bundle, Describe derives metadata.json from the files, Pack writes NAME.tar.gz and
// NAME.tar.zst from one tar stream, hashed while it is written. PackRuntime does the same for
// CUDA's own libraries, in either of two forms, and CheckServed compares what a bundle takes from
// these with what a runtime gives. ReadArtifact and VerifyArchive go the other way, from an archive
// to what the manifest says of it.
//
// A tree is an fs.FS that implements fs.ReadLinkFS and whose root holds binaries/, lib/ and the
// licenses; os.Root.FS and os.DirFS give one. ELF files and the device code in them are read by
// this package itself, so that neither CUDA nor binutils is needed where it runs.
//
// The package never builds, never repairs a tree (a finding says what to change in the build
// instead), never uses the network, and takes nothing on trust that it can read from the files.
package bundler

import (
	"fmt"
	"strings"

	"github.com/waqasm86/llcuda-farm/manifests/archive"
)

// A Finding is one thing in a bundle that breaks a rule. Its path is relative to the bundle's top
// folder.
type Finding = archive.Finding

// The rules. Their names are part of the output: people search for them.
const (
	RuleMissingFile = "missing-file"     // a program or library of the bundle's list is absent
	RuleUnexpected  = "unexpected-file"  // a file that no rule gives a reason for
	RuleMode        = "file-mode"        // setuid, world-writable, a device, a program that is not executable
	RuleLink        = "link"             // a symbolic link that is missing, dangling, absolute, or leads elsewhere
	RuleELF         = "elf"              // not an x86-64 ELF file of the kind that its place asks for
	RuleStripped    = "not-stripped"     // symbol table or debug information left in
	RuleExecStack   = "exec-stack"       // asks for an executable stack
	RuleRunPath     = "runpath"          // RUNPATH outside the rule, or any RPATH
	RuleSoname      = "soname"           // SONAME and file name differ
	RuleLibrary     = "library"          // a needed library that nothing provides
	RuleSymbol      = "undefined-symbol" // a symbol that no listed library gives
	RuleFloor       = "symbol-version"   // a symbol version above the floor
	RuleBuildPath   = "build-path"       // an absolute path of the builder
	RuleNotice      = "notice"           // a library's code without its license
	RuleDeviceCode  = "device-code"      // device code that is absent, foreign or unreadable
	RuleMetadata    = archive.RuleMetadata
	RuleArchive     = archive.RuleArchive
	RuleManifest    = "manifest" // the manifest's entry and the archive disagree
	RuleRuntime     = "runtime"  // the CUDA runtime asset does not hold what it must
)

// An AuditError is a refusal to pack or to accept a bundle. It holds everything that was found, not
// the first thing.
type AuditError struct {
	Name     string
	Findings []Finding
}

func (e *AuditError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is refused for %s:", e.Name, count(len(e.Findings), "finding"))
	for _, f := range e.Findings {
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
