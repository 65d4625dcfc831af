package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrNoRegistry means that no registry answered: there is no network, no such host, or something in
// between that is not a registry. Without a registry the base can still be made (MakeBase).
var ErrNoRegistry = errors.New("no registry answers")

// Resolved is a base image of a registry.
type Resolved struct {
	Reference string // NAME:TAG@sha256:…, ready to be pulled
	Digest    string // sha256:…
	// TagDigest is what the tag names now. A pinned image goes by its pin; that the tag has moved
	// on is worth a note.
	TagDigest string
}

// Moved reports whether the tag names another image than the one resolved.
func (r Resolved) Moved() bool { return r.TagDigest != "" && r.TagDigest != r.Digest }

// ResolveBase asks the registry for the digest of a base image. The reference is NAME:TAG, resolved
// to what the tag names now, or pinned as NAME:TAG@sha256:…, which must still be there. Credentials
// are those that Docker keeps; most public images need none. A nil client means
// http.DefaultTransport.
func ResolveBase(ctx context.Context, ref string, client http.RoundTripper) (Resolved, error) {
	if client == nil {
		client = http.DefaultTransport
	}
	tagged, pin, pinned := strings.Cut(ref, "@")
	tag, err := name.NewTag(tagged)
	if err != nil {
		return Resolved{}, fmt.Errorf("resolving base image %s: %w", ref, err)
	}
	if err := pingRegistry(ctx, tag.Registry, client); err != nil {
		return Resolved{}, fmt.Errorf("resolving base image %s: %w", ref, err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(client), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	now, err := remote.Head(tag, options...)
	if !pinned {
		if err != nil {
			return Resolved{}, fmt.Errorf("resolving base image %s: %w", ref, err)
		}
		digest := now.Digest.String()
		return Resolved{Reference: tagged + "@" + digest, Digest: digest, TagDigest: digest}, nil
	}
	resolved := Resolved{Reference: ref, Digest: pin}
	if err == nil { // a tag may be gone: the pin is what counts
		resolved.TagDigest = now.Digest.String()
	}
	fixed, err := name.NewDigest(tag.Context().Name() + "@" + pin)
	if err != nil {
		return Resolved{}, fmt.Errorf("resolving base image %s: %w", ref, err)
	}
	there, err := remote.Head(fixed, options...)
	if err != nil {
		return Resolved{}, fmt.Errorf("resolving base image %s: looking for the pinned digest: %w", ref, err)
	}
	if there.Digest.String() != pin {
		return Resolved{}, fmt.Errorf("resolving base image %s: %s has digest %s instead of the pinned %s", tagged, fixed, there.Digest, pin)
	}
	return resolved, nil
}

// pingRegistry distinguishes a missing registry from every later failure: a registry answers its
// version check with 200 or asks for a login.
func pingRegistry(ctx context.Context, registry name.Registry, client http.RoundTripper) error {
	_, err := transport.Ping(ctx, registry, client)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w at %s: %w", ErrNoRegistry, registry.RegistryStr(), err)
}
