// Command server is a real Hub for tests: hfd, which keeps repositories in git, behind a wrapper that adds what
// huggingface.co has and hfd lacks, and gofakes3 as the storage that large files go to and come from, on a host of its own,
// 127.0.0.2, so that redirects are real.
//
// Package hftest starts it: server DIR. It writes one line of JSON with its addresses and serves until its standard input
// ends, so that it never outlives the tests, however they end. Nothing but 127.0.0.0/8 can reach it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// addresses is what the server says of itself.
type addresses struct {
	Hub     string `json:"hub"`
	Storage string `json:"storage"`
	Control string `json:"control"`
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: server DIR")
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // hfd's warnings are of no interest
	log.SetOutput(io.Discard)

	objects := gofakes3.New(s3mem.New(), gofakes3.WithAutoBucket(true), gofakes3.WithoutVersioning()).Server()
	inside, err := serve("127.0.0.1:0", objects)
	if err != nil {
		return err
	}
	world := newWorld()
	outside := &gate{world: world, inner: storage(world, objects), stageOf: storageStage}
	storageURL, err := serve("127.0.0.2:0", outside)
	if err != nil {
		return err
	}
	h := newHub(args[0], world, inside, storageURL)
	hubURL, err := serve("127.0.0.1:0", &gate{world: world, inner: h, stageOf: hubStage, overtake: h.overtake})
	if err != nil {
		return err
	}
	control, err := serve("127.0.0.1:0", world)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(addresses{Hub: hubURL, Storage: storageURL, Control: control}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// serve answers on an address until the process ends.
func serve(address string, handler http.Handler) (string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return context.Background() },
	}
	go server.Serve(listener)
	return "http://" + listener.Addr().String(), nil
}
