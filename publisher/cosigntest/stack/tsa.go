package main

import (
	"fmt"

	"github.com/sigstore/timestamp-authority/v2/pkg/server"
	"github.com/spf13/viper"
)

// timestampPath is where the timestamp authority gives timestamps.
const timestampPath = "/api/v1/timestamp"

// serveTSA runs the timestamp authority's own server code, with a key in memory.
func serveTSA() (string, error) {
	const policy = "1.3.6.1.4.1.57264.2" // Sigstore's: https://github.com/sigstore/timestamp-authority
	for name, value := range map[string]any{
		"timestamp-signer": "memory", "timestamp-signer-hash": "sha256", "default-policy-oid": policy, "accepted-policy-oids": []string{policy},
		"max-request-body-size": 1 << 20, "include-chain-in-response": false, "enforce-intermediate-eku": true,
	} {
		viper.Set(name, value)
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	authority := server.NewRestAPIServer("127.0.0.1", port, []string{"http"}, false, readTimeout, readTimeout)
	go authority.Serve() // ends with the process; a failure shows when the chain is requested
	return fmt.Sprintf("http://127.0.0.1:%d", port), nil
}
