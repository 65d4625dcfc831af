// Command stack is a whole Sigstore on loopback, for tests: the very server code of Fulcio, the timestamp authority and
// Rekor v2, an issuer of OIDC tokens, a certificate log that signs what it sees, and a log that speaks Rekor's first
// protocol.
//
//	stack DIR    writes DIR/{trusted_root,signing_config,stack}.json, says "ready", and runs until its input ends
//
// Package cosigntest compiles and runs it. It is a module of its own, so that none of these servers is among the
// dependencies of the farm.
//
// Tokens of workflows claim to be from https://token.actions.githubusercontent.com, as the real ones do. Fulcio looks
// that issuer's keys up over HTTP: this process answers for it, so policies of production hold here unchanged. No
// request leaves the machine, and every listener is on 127.0.0.1. All keys are made at the start and live no longer.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// readTimeout bounds a request's header: a client that stalls is a defect of the test.
const readTimeout = 10 * time.Second

// An addresses value is stack.json: what package cosigntest reads.
type addresses struct {
	// Issuer has the tokens of people, and mints tokens of every kind at /mint.
	Issuer  string `json:"issuer"`
	Fulcio  string `json:"fulcio"`
	TSA     string `json:"tsa"`
	RekorV1 string `json:"rekor_v1"`
	RekorV2 string `json:"rekor_v2"`
}

func run(args []string) error {
	if len(args) > 0 && args[0] == rekorCommand {
		return runRekor(args[1:])
	}
	if len(args) != 1 {
		return errors.New("usage: stack DIR")
	}
	return serveAll(context.Background(), args[0])
}

// serveAll starts every service, describes them, and waits for the end of the input.
func serveAll(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	issuer, err := newIssuer()
	if err != nil {
		return err
	}
	// Fulcio finds the keys of an issuer with the default client, and takes no other.
	http.DefaultTransport = &loopback{issuer: issuer.handler(workflowIssuer), next: http.DefaultTransport}

	var urls addresses
	if urls.Issuer, err = issuer.listen(); err != nil {
		return err
	}
	certificateLog, err := newCertificateLog()
	if err != nil {
		return err
	}
	if urls.Fulcio, err = serveFulcio(ctx, certificateLog, urls.Issuer); err != nil {
		return err
	}
	if urls.TSA, err = serveTSA(); err != nil {
		return err
	}
	first, err := newRekorV1()
	if err != nil {
		return err
	}
	urls.RekorV1 = first.url
	second, err := startRekorV2(dir)
	if err != nil {
		return err
	}
	defer second.stop()
	urls.RekorV2 = second.url

	if err := describe(dir, urls, certificateLog, first, second); err != nil {
		return err
	}
	text, err := json.Marshal(urls)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "stack.json"), text, 0o644); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// listen serves h on a free port of loopback, and says where.
func listen(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: readTimeout}
	go server.Serve(l) // ends with the process
	return "http://" + l.Addr().String(), nil
}

// freePort is a port for servers that take only a number. It is below those that the kernel gives to connections, which
// would take one again before its server listens: https://docs.kernel.org/networking/ip-sysctl.html, ip_local_port_range.
func freePort() (int, error) {
	const first, last = 12_000, 32_000
	for range 100 {
		port := first + rand.IntN(last-first)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no port is free")
}

// get fetches from a service of the stack's own that may not listen yet.
func get(url string) ([]byte, error) {
	const (
		tries = 500
		pause = 10 * time.Millisecond
	)
	var last error
	for range tries {
		response, err := http.Get(url)
		if err != nil {
			last = err
			time.Sleep(pause)
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && response.StatusCode == http.StatusOK {
			return body, nil
		}
		last = fmt.Errorf("getting %s: %s, %v", url, response.Status, err)
		time.Sleep(pause)
	}
	return nil, last
}
