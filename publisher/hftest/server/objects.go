package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/service/s3"
)

type object struct {
	OID     string             `json:"oid"`
	Size    int64              `json:"size"`
	Actions map[string]*action `json:"actions,omitempty"`
}

type action struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header,omitempty"`
}

func (h *hub) batch(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var asked struct {
		Operation string
		Transfers []string
		Objects   []object
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		say(w, http.StatusBadRequest, "", err.Error())
		return
	}
	if asked.Operation != "upload" {
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.explain(w, r)
		return
	}
	if !h.exists(repoOf(r)) {
		say(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
		return
	}
	settings := h.world.get()
	transfer := "basic"
	for i := range asked.Objects {
		o := &asked.Objects[i]
		if info, err := h.lfs.Info(o.OID); err == nil && info.Size() == o.Size {
			continue
		}
		parts := slices.Contains(asked.Transfers, "multipart") && o.Size >= settings.PartsFrom
		upload, err := h.sign(r, o, parts, settings)
		if err != nil {
			say(w, http.StatusInternalServerError, "", err.Error())
			return
		}
		if parts {
			transfer = "multipart"
		}
		o.Actions = map[string]*action{
			"upload": upload,
			"verify": {Href: "http://" + r.Host + "/" + repoOf(r) + ".git/info/lfs/objects/verify"},
		}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	sayJSON(w, http.StatusOK, map[string]any{"transfer": transfer, "objects": asked.Objects})
}

// key is where hfd keeps an object.
func key(oid string) *string { return aws.String(path.Join("lfs", oid[:2], oid[2:4], oid[4:])) }

func (h *hub) sign(r *http.Request, o *object, parts bool, settings Settings) (*action, error) {
	lifetime := time.Duration(settings.URLSeconds) * time.Second
	if !parts {
		request, _ := h.outside.PutObjectRequest(&s3.PutObjectInput{Bucket: aws.String(bucket), Key: key(o.OID)})
		href, err := request.Presign(lifetime)
		return &action{Href: href}, err
	}
	upload, err := h.inside.CreateMultipartUpload(&s3.CreateMultipartUploadInput{Bucket: aws.String(bucket), Key: key(o.OID)})
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.uploads[*upload.UploadId] = o.OID
	h.mu.Unlock()
	header := map[string]string{"chunk_size": strconv.FormatInt(settings.PartSize, 10)}
	for n := int64(1); (n-1)*settings.PartSize < o.Size; n++ {
		request, _ := h.outside.UploadPartRequest(&s3.UploadPartInput{Bucket: aws.String(bucket), Key: key(o.OID), UploadId: upload.UploadId, PartNumber: &n})
		if header[fmt.Sprintf("%05d", n)], err = request.Presign(lifetime); err != nil {
			return nil, err
		}
	}
	return &action{Href: "http://" + r.Host + "/api/complete_multipart?uploadId=" + url.QueryEscape(*upload.UploadId), Header: header}, nil
}

func (h *hub) complete(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		OID   string
		Parts []struct {
			PartNumber int64
			ETag       string
		}
	}
	id := r.URL.Query().Get("uploadId")
	err := json.NewDecoder(r.Body).Decode(&asked)
	h.mu.Lock()
	oid, ok := h.uploads[id]
	h.mu.Unlock()
	if err != nil || !ok || oid != asked.OID {
		say(w, http.StatusBadRequest, "", "no such upload")
		return
	}
	done := &s3.CompletedMultipartUpload{}
	for _, p := range asked.Parts {
		if !strings.HasPrefix(p.ETag, `"`) || !strings.HasSuffix(p.ETag, `"`) {
			say(w, http.StatusBadRequest, "", "an ETag without its quotes")
			return
		}
		done.Parts = append(done.Parts, &s3.CompletedPart{PartNumber: aws.Int64(p.PartNumber), ETag: aws.String(p.ETag)})
	}
	if _, err := h.inside.CompleteMultipartUpload(&s3.CompleteMultipartUploadInput{Bucket: aws.String(bucket), Key: key(oid), UploadId: &id, MultipartUpload: done}); err != nil {
		say(w, http.StatusBadRequest, "", err.Error())
		return
	}
	h.mu.Lock()
	delete(h.uploads, id)
	h.mu.Unlock()
	if !h.isSound(oid) {
		say(w, http.StatusBadRequest, "", "the parts are not the object "+oid)
		return
	}
	sayJSON(w, http.StatusOK, map[string]any{"success": true})
}

// isSound reads an object and removes it if it is not what its name says.
func (h *hub) isSound(oid string) bool {
	h.mu.Lock()
	known := h.sound[oid]
	h.mu.Unlock()
	if known {
		return true
	}
	got, err := h.inside.GetObject(&s3.GetObjectInput{Bucket: aws.String(bucket), Key: key(oid)})
	if err != nil {
		return false
	}
	defer got.Body.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, got.Body); err != nil {
		return false
	}
	if hex.EncodeToString(sum.Sum(nil)) != oid {
		h.inside.DeleteObject(&s3.DeleteObjectInput{Bucket: aws.String(bucket), Key: key(oid)})
		return false
	}
	h.mu.Lock()
	h.sound[oid] = true
	h.mu.Unlock()
	return true
}

func (h *hub) verify(w http.ResponseWriter, r *http.Request) {
	var asked object
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || len(asked.OID) != 2*sha256.Size {
		say(w, http.StatusBadRequest, "", "no object named")
		return
	}
	info, err := h.lfs.Info(asked.OID)
	if err != nil || info.Size() != asked.Size || !h.isSound(asked.OID) {
		say(w, http.StatusNotFound, "", "the object is not there, or not whole")
		return
	}
	sayJSON(w, http.StatusOK, struct{}{})
}
