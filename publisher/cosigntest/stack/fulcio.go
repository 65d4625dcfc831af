package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/sigstore/fulcio/pkg/ca/ephemeralca"
	"github.com/sigstore/fulcio/pkg/config"
	"github.com/sigstore/fulcio/pkg/generated/protobuf"
	"github.com/sigstore/fulcio/pkg/server"
	"github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// serveFulcio runs Fulcio's own server code. Its released program would also listen for metrics on all interfaces.
func serveFulcio(ctx context.Context, log *certificateLog, people string) (string, error) {
	issuers, err := json.Marshal(map[string]any{"OIDCIssuers": map[string]any{
		workflowIssuer: map[string]string{"IssuerURL": workflowIssuer, "ClientID": audience, "Type": "github-workflow"},
		people:         map[string]string{"IssuerURL": people, "ClientID": audience, "Type": "email"},
	}})
	if err != nil {
		return "", err
	}
	cfg, err := config.Read(issuers)
	if err != nil {
		return "", err
	}
	authority, err := ephemeralca.NewEphemeralCA()
	if err != nil {
		return "", err
	}
	ct, err := log.client()
	if err != nil {
		return "", err
	}
	algorithms, err := signature.NewAlgorithmRegistryConfig([]v1.PublicKeyDetails{v1.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256})
	if err != nil {
		return "", err
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	rpc := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(config.With(ctx, cfg), request)
	}))
	protobuf.RegisterCAServer(rpc, server.NewGRPCCAServer(ct, authority, algorithms, server.NewIssuerPool(cfg)))
	go rpc.Serve(inner) // ends with the process
	gateway := runtime.NewServeMux(runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
		return metadata.Pairs(server.MetadataOIDCTokenKey, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	}))
	plain := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if err := protobuf.RegisterCAHandlerFromEndpoint(ctx, gateway, inner.Addr().String(), plain); err != nil {
		return "", err
	}
	return listen(gateway)
}
