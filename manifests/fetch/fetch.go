// Package fetch takes a machine to a verified, running llama.cpp: it is llcuda-fetch without flags
// and without a terminal.
//
// fetchcli calls it. The input is a Client (the store, mirrors, whose signature counts) and what
// the user asked for; the output is plans, installations and models, and errors, whose kind
// Classify gives:
//
//	Resolve: release pointer ──▶ signature ──▶ SHA256SUMS ──▶ manifest.json      Plan: detect ──▶ manifests.Pick
//	Install: download ──▶ verify ──▶ unpack ──▶ link the CUDA libraries ──▶ try the programs ──▶ flip `current`
//	SelfUpdate: download ──▶ verify ──▶ unpack ──▶ try the client ──▶ put it in the place of the one that runs
//
// Nothing is used before its signature and digests are verified, in the order that package manifests
// gives. What is installed already is answered from the store, with no network. An installation is
// an offer, which functions of the Client make and for which they only read the store, and an
// installer that carries it out, whose methods alone write there. The package calls functions of the
// Client's to report progress; it never logs, prints or asks, and never sets the process's
// environment.
package fetch

import (
	"fmt"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/detect"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// What callers see of the packages below.
type (
	// Progress says how far a download is.
	Progress = transfer.Progress
	// Install is one installation in the store.
	Install = store.Install
	// Holder is a process that changes the store.
	Holder = store.Holder
	// Finding is one thing that is wrong with an installed file.
	Finding = store.Finding
	// Item is something that Prune removes.
	Item = store.Item
	// Contents are what the store's folder holds.
	Contents = store.Contents
	// A LeftOut is a CPU variant that an installation does without.
	LeftOut = store.LeftOut
	// Source is one place that was asked about the machine.
	Source = detect.Source
)

// ErrNotInstalled is a store in which nothing is installed yet.
var ErrNotInstalled = store.ErrNotInstalled

// A Signer is who signed a release.
type Signer struct {
	// By is for a person: the identity, or that it was a key.
	By string
	// ID tells signers apart for certain, which By may not. The numbers of release pointers are
	// kept by it.
	ID string
	// Tag is the tag that the signing workflow ran for; empty where a signature does not tell.
	Tag string
	// Commit is the commit that it ran for; empty where a signature does not tell.
	Commit string
}

// A Verifier says whose signature over SHA256SUMS counts.
type Verifier interface {
	// Verify returns who made the signature, given as a Sigstore bundle, or why it does not count.
	Verify(sums, signed []byte) (Signer, error)
}

// A PointerVerifier says whose release pointer counts.
type PointerVerifier interface {
	// VerifyPointer returns the statement in a release pointer, given as a Sigstore bundle, and who
	// signed it, or why that does not count.
	VerifyPointer(signed []byte) (statement []byte, by Signer, err error)
}

// A Client fetches. Its fields are not changed while it is used.
type Client struct {
	// Store and Detector are required.
	Store    *store.Store
	Detector detect.Detector
	// Host answers for another machine, if not nil.
	Host *manifests.Host
	// Verifier is required, unless SkipSignature is set: then an attacker who controls a mirror
	// decides what is installed.
	Verifier      Verifier
	SkipSignature bool
	// Pointers is required to look for the current release; not for one that is named.
	Pointers PointerVerifier
	// Mirrors are the addresses of folders with a release, tried in turn: http, https, file, or a
	// path. "{release}" in one stands for the release's tag, and for "current" where the release
	// pointer is. Without any, they are those that the installation remembers, else DefaultMirror.
	// Whose signature counts is never remembered: otherwise an attacker who can write one file of
	// the store would decide it, for a program that may be replaced with the rights of another
	// user.
	Mirrors []string
	// Offline keeps the client from using the network. Mirrors on this machine are used all the
	// same.
	Offline bool
	// Transfer downloads; nil: its zero value.
	Transfer *transfer.Client
	// Hub is where models come from. Required for them.
	Hub *hub.Client
	// Own is the release that this program came with; empty if none did. It is what a machine
	// without an installation takes where the release pointer has expired and names nothing newer.
	Own string
	// AllowWithdrawn takes a release that is named, although the farm withdrew it.
	AllowWithdrawn bool
	// Patience bounds the time in which a release is found, from its pointer to its manifest; 0 is
	// no bound. Downloads take as long as they take.
	Patience time.Duration
	// Command is what other processes that wait for the store report: "llcuda-fetch install".
	Command string
	// Progress, Waiting and Step, if not nil, report what the client is doing. Step gets a sentence
	// at the beginning of each operation that takes time and is not a download; Warn gets one that
	// the user must not miss. Resolved gets each release that a mirror gave, Detected the machine,
	// and Decided what will be installed for it.
	Progress func(Progress)
	Waiting  func(Holder)
	Step     func(string)
	Warn     func(string)
	Resolved func(*Release)
	Detected func(manifests.Host)
	Decided  func(manifests.Decision)
}

func (c *Client) tellDecision(d manifests.Decision) {
	if c.Decided != nil {
		c.Decided(d)
	}
}

func (c *Client) warn(format string, args ...any) {
	if c.Warn != nil {
		c.Warn(fmt.Sprintf(format, args...))
	}
}

func (c *Client) step(format string, args ...any) {
	if c.Step != nil {
		c.Step(fmt.Sprintf(format, args...))
	}
}

func (c *Client) transfer() *transfer.Client {
	if c.Transfer != nil {
		return c.Transfer
	}
	return &transfer.Client{}
}
