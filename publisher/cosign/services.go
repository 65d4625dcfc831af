package cosign

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
)

// publicConfig names the services of the public Sigstore. They are those of sigverify's trusted
// root, both generations of the log among them: a client whose root is older than the newer log
// finds the other. A test compares the two.
//
//go:embed signing_config.json
var publicConfig []byte

// Services are the services that a keyless signature takes.
type Services struct {
	authority  root.Service
	issuer     string // for people; empty where there is none
	logs       []root.Service
	timestamps []root.Service
}

// ReadServices chooses from a Sigstore signing config, in JSON, what is in service now; from that
// of the public Sigstore where config is empty. Of the logs it takes one of each generation.
func ReadServices(config []byte, now time.Time) (Services, error) {
	if len(config) == 0 {
		config = publicConfig
	}
	all, err := root.NewSigningConfigFromJSON(config)
	if err != nil {
		return Services{}, fmt.Errorf("reading the signing config: %w", err)
	}
	var s Services
	if s.authority, err = root.SelectService(all.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, now); err != nil {
		return Services{}, fmt.Errorf("reading the signing config: certificate authority: %w", err)
	}
	second := false
	for _, version := range sign.RekorAPIVersions {
		log, err := root.SelectService(all.RekorLogURLs(), []uint32{version}, now)
		if err != nil {
			continue // none of that generation
		}
		s.logs = append(s.logs, log)
		second = second || version > 1
	}
	if len(s.logs) == 0 {
		return Services{}, errors.New("reading the signing config: no transparency log is in service")
	}
	if authorities := all.TimestampAuthorityURLs(); len(authorities) > 0 {
		s.timestamps, err = root.SelectServices(authorities, all.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
		if err != nil {
			return Services{}, fmt.Errorf("reading the signing config: timestamp authority: %w", err)
		}
	}
	if second && len(s.timestamps) == 0 {
		return Services{}, errors.New("reading the signing config: a log of the second generation tells no time, and there is no timestamp authority")
	}
	if issuer, err := root.SelectService(all.OIDCProviderURLs(), []uint32{1}, now); err == nil {
		s.issuer = issuer.URL
	}
	return s, nil
}

func (s Services) certificateAuthority(ctx context.Context) sign.CertificateProvider {
	return &authority{sign.NewFulcio(&sign.FulcioOptions{BaseURL: s.authority.URL, Timeout: noTimeout, Transport: newPatience(ctx, "the certificate authority")})}
}

func (s Services) timestampAuthorities(ctx context.Context) []*sign.TimestampAuthority {
	var made []*sign.TimestampAuthority
	for _, service := range s.timestamps {
		made = append(made, sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{
			URL: service.URL, Timeout: noTimeout, Transport: newPatience(ctx, "the timestamp authority"),
		}))
	}
	return made
}

func (s Services) transparencyLogs(ctx context.Context) []transparencyLog {
	var made []transparencyLog
	for _, service := range s.logs {
		client := &http.Client{Transport: newPatience(ctx, "the transparency log")}
		opts := &sign.RekorOptions{BaseURL: service.URL, Version: service.MajorAPIVersion, Timeout: noTimeout}
		if service.MajorAPIVersion > 1 {
			opts.ClientV2 = &tiles{service.URL, client}
		} else {
			opts.Client = firstGeneration(service.URL, client)
		}
		made = append(made, transparencyLog{service.URL, sign.NewRekor(opts)})
	}
	return made
}

// A transparencyLog is a log by its address.
type transparencyLog struct {
	url string
	sign.Transparency
}

// anyLog submits a signature to every log that accepts it. A log that does not answer, or that was
// closed since the signing config was written, does not prevent signing: a verifier needs only one.
type anyLog struct {
	logs   []transparencyLog
	took   []string
	missed []error
}

// GetTransparencyLogEntry implements sign.Transparency.
func (a *anyLog) GetTransparencyLogEntry(ctx context.Context, verifier []byte, bundle *protobundle.Bundle) error {
	for _, log := range a.logs {
		err := log.GetTransparencyLogEntry(ctx, verifier, bundle)
		switch {
		case err == nil:
			a.took = append(a.took, log.url)
		case errors.Is(err, errDuplicate), ctx.Err() != nil:
			return err
		default:
			a.missed = append(a.missed, withoutAddress(err))
		}
	}
	if len(a.took) == 0 {
		return errors.Join(a.missed...)
	}
	return nil
}
