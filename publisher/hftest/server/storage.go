package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// storageStage names the kind of a request to the storage.
func storageStage(r *http.Request) string {
	switch {
	case r.Method == http.MethodPut && r.URL.Query().Has("partNumber"):
		return "part"
	case r.Method == http.MethodPut:
		return "put"
	}
	return "download"
}

// storage adds to gofakes3 what S3 does with signed addresses: they expire, go with no Authorization header, and the
// digest that was signed must be that of the bytes.
func storage(world *world, objects http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		signed, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
		seconds, err2 := strconv.Atoi(query.Get("X-Amz-Expires"))
		switch {
		case err != nil || err2 != nil || query.Get("X-Amz-Signature") == "":
			refuse(w, http.StatusForbidden, "AccessDenied", "Access Denied")
			return
		case r.Header.Get("Authorization") != "":
			refuse(w, http.StatusBadRequest, "InvalidArgument", "Only one auth mechanism allowed")
			return
		case time.Now().After(signed.Add(time.Duration(seconds) * time.Second)):
			expired(w)
			return
		}
		if storageStage(r) == "put" {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				refuse(w, http.StatusBadRequest, "IncompleteBody", err.Error())
				return
			}
			sum := sha256.Sum256(body)
			if hex.EncodeToString(sum[:]) != oidOf(r.URL.Path) {
				refuse(w, http.StatusBadRequest, "BadDigest", "The sha256 you specified did not match the calculated checksum.")
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		objects.ServeHTTP(w, r)
	})
}

// oidOf is the digest in an object's path: hfd's keys are lfs/aa/bb/cc….
func oidOf(path string) string {
	parts := strings.Split(path, "/")
	return strings.Join(parts[max(0, len(parts)-3):], "")
}

func expired(w http.ResponseWriter) {
	refuse(w, http.StatusForbidden, "AccessDenied", "Request has expired")
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code+`</Code><Message>`+message+`</Message></Error>`)
}
