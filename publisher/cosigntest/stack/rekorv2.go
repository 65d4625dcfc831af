package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix/app"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
)

// rekorCommand runs Rekor v2's server in this program: it and the timestamp authority configure themselves in the same
// global place, so they are two processes.
const rekorCommand = "rekor"

// runRekor is that process.
func runRekor(args []string) error {
	os.Args = append([]string{"rekor-server"}, args...)
	app.Execute() // exits by itself
	return nil
}

// A rekorV2 is a Rekor v2 that keeps its log in a folder.
type rekorV2 struct {
	url    string
	public ed25519.PublicKey
	id     []byte
	child  *exec.Cmd
}

func startRekorV2(dir string) (*rekorV2, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	// The host in the log's checkpoints, in the trusted root, and in the log's id are one.
	const host = "127.0.0.1"
	_, id, err := note.KeyHash(host, public)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	keyFile := filepath.Join(dir, "rekor.key")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	var ports [3]string
	for i := range ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i] = strconv.Itoa(port)
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	output, err := os.Create(filepath.Join(dir, "rekor.log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	child := exec.Command(program, rekorCommand, "serve",
		"--http-address="+host, "--http-port="+ports[0], "--grpc-address="+host, "--grpc-port="+ports[1], "--http-metrics-port="+ports[2],
		"--hostname="+host, "--storage-dir="+filepath.Join(dir, "rekor"), "--signer-filepath="+keyFile,
		"--checkpoint-interval=200ms", "--batch-max-age=20ms")
	child.Stdout, child.Stderr = output, output
	// The child dies with the thread that started it: that one must live as long as the process.
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	if err := child.Start(); err != nil {
		return nil, err
	}
	r := &rekorV2{url: "http://" + host + ":" + ports[0], public: public, id: id, child: child}
	if _, err := get(r.url + "/healthz"); err != nil {
		r.stop()
		said, readErr := os.ReadFile(output.Name())
		return nil, errors.Join(fmt.Errorf("starting Rekor v2: %w\n%s", err, said), readErr)
	}
	return r, nil
}

func (r *rekorV2) stop() {
	r.child.Process.Kill() // nothing in its folder is needed anymore
	r.child.Wait()
}
