package cosign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-openapi/runtime"
	openapi "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekor "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// errDuplicate is a log that has the very same signature: a lost answer was followed by a second
// request. Another signature over the same is as good, and easier had than the proof that the log
// sent with the first answer.
var errDuplicate = errors.New("the log has this signature already")

// firstGeneration is the client for a log of Rekor v1. It is Rekor's own, on a transport that gives
// up in time.
func firstGeneration(base string, client *http.Client) sign.RekorClient {
	host, path, scheme := base, rekor.DefaultBasePath, "https"
	if u, err := url.Parse(base); err == nil {
		host, scheme = u.Host, u.Scheme
		if u.Path != "" {
			path = u.Path
		}
	}
	t := openapi.NewWithClient(host, path, []string{scheme}, client)
	t.Consumers[runtime.JSONMime], t.Producers[runtime.JSONMime] = runtime.JSONConsumer(), runtime.JSONProducer()
	formats := strfmt.NewFormats()
	formats.Add("signedCheckpoint", &util.SignedNote{}, util.SignedCheckpointValidator)
	return rekor.New(t, formats).Entries
}

// tiles is the client for a log of Rekor v2. The log's own client hides which status it got.
type tiles struct {
	base   string
	client *http.Client
}

// Add implements sign.RekorV2Client.
func (c *tiles) Add(ctx context.Context, entry any) (*protorekor.TransparencyLogEntry, error) {
	hashed, ok := entry.(*tilespb.HashedRekordRequestV002)
	if !ok {
		return nil, fmt.Errorf("a %T is not an entry that the log takes", entry)
	}
	text, err := protojson.Marshal(&tilespb.CreateEntryRequest{Spec: &tilespb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: hashed}})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.base, "/")+"/api/v2/log/entries", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return nil, withoutAddress(err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusConflict {
		return nil, errDuplicate
	}
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var logged protorekor.TransparencyLogEntry
	if err := protojson.Unmarshal(answer, &logged); err != nil {
		return nil, fmt.Errorf("reading the log's answer: %w", err)
	}
	return &logged, nil
}
