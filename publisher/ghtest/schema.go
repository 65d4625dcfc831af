package ghtest

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

//go:embed testdata/github-releases.openapi.json
var description []byte

// A schema is GitHub's description of the API.
type schema struct{ doc *openapi3.T }

func loadSchema(t testing.TB) *schema {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(description)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	// GitHub ignores fields that it does not know. A client that sends one means something by it.
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.RequestBody == nil {
				continue
			}
			if media := operation.RequestBody.Value.Content["application/json"]; media != nil {
				strict := false
				media.Schema.Value.AdditionalProperties.Has = &strict
			}
		}
	}
	return &schema{doc}
}

func (s *schema) input(route *route, r *request) *openapi3filter.RequestValidationInput {
	item := s.doc.Paths.Value(route.path)
	return &openapi3filter.RequestValidationInput{
		Request: r.Request, PathParams: r.params, QueryParams: r.URL.Query(),
		Route: &routers.Route{Spec: s.doc, Path: route.path, PathItem: item, Method: route.method, Operation: item.GetOperation(route.method)},
		Options: &openapi3filter.Options{
			ExcludeRequestBody: route.op == Upload, IncludeResponseStatus: true, SkipSettingDefaults: true, RejectWhenRequestBodyNotSpecified: true,
		},
	}
}

// request checks a request against the description.
func (s *schema) request(t testing.TB, route *route, r *request) {
	input := s.input(route, r)
	if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
		t.Errorf("ghtest: the request %s %s is not as GitHub describes it: %v", r.Method, r.URL, err)
	}
	for name := range r.URL.Query() {
		if input.Route.Operation.Parameters.GetByInAndName(openapi3.ParameterInQuery, name) == nil {
			t.Errorf("ghtest: %s %s has the parameter %q, which GitHub does not know", r.Method, r.URL, name)
		}
	}
	if route.op == Upload {
		if kind := r.Header.Get("Content-Type"); input.Route.Operation.RequestBody.Value.Content[kind] == nil {
			t.Errorf("ghtest: an upload has the type %q", kind)
		}
		if r.ContentLength <= 0 {
			t.Errorf("ghtest: an upload says that it has %d bytes", r.ContentLength)
		}
	} else if len(r.body) > 0 && r.Header.Get("Content-Type") == "" {
		t.Errorf("ghtest: %s %s has a body of no type", r.Method, r.URL)
	}
	r.Body = rest(r)
}

// rest returns the body again, after it was read.
func rest(r *request) io.ReadCloser {
	if r.op == Upload {
		return r.Body
	}
	return io.NopCloser(bytes.NewReader(r.body))
}

// Answers that the description leaves out of some operations, and what their bodies are.
var (
	plain  = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable}
	detail = []int{http.StatusUnprocessableEntity}
)

// answer checks an answer against the description.
func (s *schema) answer(t testing.TB, route *route, r *request, a answer) {
	var data []byte
	header := http.Header{}
	if a.body != nil {
		data, _ = json.Marshal(a.body)
		header.Set("Content-Type", "application/json; charset=utf-8")
	}
	input := s.input(route, r)
	declared := input.Route.Operation.Responses.Status(a.status)
	name := ""
	switch {
	case declared != nil && len(declared.Value.Content) > 0 || a.body == nil:
		err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
			RequestValidationInput: input, Status: a.status, Header: header, Body: io.NopCloser(bytes.NewReader(data)), Options: input.Options,
		})
		if err != nil {
			t.Errorf("ghtest: the answer %d to %s %s is not as GitHub describes it: %v", a.status, r.Method, r.URL, err)
		}
		return
	case slices.Contains(plain, a.status):
		name = "basic-error"
	case slices.Contains(detail, a.status):
		name = "validation-error"
	default:
		t.Errorf("ghtest: %s %s is never answered with %d", r.Method, r.URL, a.status)
		return
	}
	var body any
	if err := json.Unmarshal(data, &body); err != nil {
		t.Errorf("ghtest: %v", err)
	}
	if err := s.doc.Components.Schemas[name].Value.VisitJSON(body); err != nil {
		t.Errorf("ghtest: the answer %d to %s %s: %v", a.status, r.Method, r.URL, err)
	}
}
