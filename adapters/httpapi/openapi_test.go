package httpapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
)

func TestTheDescriptionIsValid(t *testing.T) {
	d := describe(t)
	if err := d.document.Validate(t.Context(), openapi3.EnableMultiError()); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(d.document.OpenAPI, "3.1.") {
		t.Errorf("version of OpenAPI = %s, want 3.1", d.document.OpenAPI)
	}
	for _, o := range d.operations {
		if o.OperationID == "" || o.Summary == "" || len(o.Tags) != 1 {
			t.Errorf("%s %s has no id, no summary, or not one tag", o.method, o.path)
		}
	}
}

// A component without a reference describes nothing.
func TestTheDescriptionHoldsNothingUnused(t *testing.T) {
	d := describe(t)
	components := d.tree.(map[string]any)["components"].(map[string]any)
	for kind, group := range components {
		for name := range group.(map[string]any) {
			if at := fmt.Sprintf("#/components/%s/%s", kind, name); !strings.Contains(d.text, "'"+at+"'") && !strings.Contains(d.text, "`"+at+"`") {
				t.Errorf("%s is unused", at)
			}
		}
	}
}

// Otherwise a field that is not described would go unnoticed.
func TestEveryObjectInTheDescriptionIsClosed(t *testing.T) {
	components := describe(t).tree.(map[string]any)["components"]
	var walk func(place string, value any)
	walk = func(place string, value any) {
		switch value := value.(type) {
		case map[string]any:
			if _, closed := value["additionalProperties"]; value["type"] == "object" && !closed {
				t.Errorf("%s allows additional properties", place)
			}
			for name, inner := range value {
				walk(place+"/"+name, inner)
			}
		case []any:
			for i, inner := range value {
				walk(fmt.Sprint(place, "/", i), inner)
			}
		}
	}
	walk("components", components)
}

func TestTheDescriptionAgreesWithTheRoutes(t *testing.T) {
	d := describe(t)
	described := map[string]operation{}
	for _, o := range d.operations {
		described[o.method+" "+o.path] = o
	}
	routed := map[string]bool{}
	for _, call := range prepare(t).Calls() {
		o, known := described[call.Method+" "+call.Path]
		if !known {
			// The literal path may also match the path of an operation with a variable, and
			// be described there.
			if o, _, _ = d.find(call.Method, call.Path); o.Operation == nil {
				t.Errorf("%s %s is not described", call.Method, call.Path)
				continue
			}
		}
		routed[call.Method+" "+call.Path] = true
		if call.AnyParams != o.takesAnyParameter() {
			t.Errorf("%s accepts any parameter = %v, but is described otherwise", o.OperationID, call.AnyParams)
		}
		if params := slices.Sorted(slices.Values(call.Params)); !slices.Equal(params, o.query()) {
			t.Errorf("%s accepts %q, but is described with %q", o.OperationID, params, o.query())
		}
	}
	for call := range described {
		if !routed[call] {
			t.Errorf("%s is described, but has no route", call)
		}
	}
}

// codesOf returns the problem codes that a response may have, or none if it is no problem.
func codesOf(t testing.TB, response *openapi3.Response) []string {
	t.Helper()
	media := response.Content["application/problem+json"]
	if media == nil {
		return nil
	}
	var codes []string
	for _, part := range media.Schema.Value.AllOf {
		if code := part.Value.Properties["code"]; code != nil && part.Ref == "" {
			for _, word := range code.Value.Enum {
				codes = append(codes, word.(string))
			}
		}
	}
	if len(codes) == 0 {
		t.Error("a problem response is described without codes")
	}
	return codes
}

func TestTheDescriptionListsEveryProblemCode(t *testing.T) {
	d := describe(t)
	described := map[httpapi.Outcome]bool{}
	add := func(status int, response *openapi3.Response) {
		for _, code := range codesOf(t, response) {
			described[httpapi.Outcome{Status: status, Code: code}] = true
		}
	}
	for _, o := range d.operations {
		for text, ref := range o.Responses.Map() {
			add(statusOf(t, text), ref.Value)
		}
	}
	add(http.StatusNotFound, d.document.Components.Responses["NoSuchPath"].Value)
	add(http.StatusMethodNotAllowed, d.document.Components.Responses["MethodNotAllowed"].Value)
	for outcome := range httpapi.Outcomes() {
		if !described[outcome] {
			t.Errorf("%v is not described", outcome)
		}
	}
	for outcome := range described {
		if !httpapi.Outcomes()[outcome] {
			t.Errorf("%v is described, but never answered", outcome)
		}
	}
}

// docs/api.md is for authors of clients, and the only place that explains every code.
func TestTheDocumentationListsEveryProblemCode(t *testing.T) {
	document, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[httpapi.Outcome]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (\\d{3}) \\| `(\\w+)` \\|").FindAllStringSubmatch(string(document), -1) {
		documented[httpapi.Outcome{Status: statusOf(t, row[1]), Code: row[2]}] = true
	}
	if want := httpapi.Outcomes(); !maps.Equal(documented, want) {
		t.Errorf("outcomes in docs/api.md = %v\nwant                    %v", documented, want)
	}
}

func statusOf(t testing.TB, text string) int {
	t.Helper()
	var status int
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatalf("the status %q: %v", text, err)
	}
	return status
}

func TestTheDescriptionIsServed(t *testing.T) {
	s := start(t)
	s.loseLeader()
	want, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got := s.do(t, "GET", "/openapi.yaml", "")
	if got.status != 200 || got.body != string(want) || got.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("answer = %d %v, want 200 with openapi.yaml", got.status, got.header)
	}
	again := s.do(t, "GET", "/openapi.yaml", "", "If-None-Match: "+got.header.Get("ETag"))
	if again.status != 304 || again.body != "" {
		t.Errorf("second request: status = %d, want 304 without a body", again.status)
	}
}

// The checks are worth something only if they find faults.
func TestTheDescriptionRejectsUndescribedAnswers(t *testing.T) {
	const node = `{"id":"a","address":"h:1","pool":"p","weight":1,"state":"active","slot":0,"createdRevision":1,"revision":1}`
	stored := http.Header{"Content-Type": {"application/json"}, "Cache-Control": {"no-cache"}, "Etag": {`"1"`}, "Nodesmetadata-Revision": {"1"}}
	with := func(name, value string) http.Header {
		h := maps.Clone(stored)
		if h[name] = []string{value}; value == "" {
			delete(h, name)
		}
		return h
	}
	tests := map[string]struct {
		method, target string
		status         int
		header         http.Header
		body           string
		fault          string // part of the error; empty: none
	}{
		"a described answer":       {"GET", "/nodes/a", 200, stored, node, ""},
		"another status":           {"GET", "/nodes/a", 418, stored, node, "418"},
		"another method":           {"PATCH", "/nodes/a", 200, stored, node, "not described"},
		"another path":             {"GET", "/coffee", 200, stored, node, "not described"},
		"an undescribed header":    {"GET", "/nodes/a", 200, with("X-New", "1"), node, "X-New"},
		"a missing header":         {"GET", "/nodes/a", 200, with("Etag", ""), node, "ETag"},
		"a malformed header":       {"GET", "/nodes/a", 200, with("Nodesmetadata-Revision", "x"), node, "Revision"},
		"another content type":     {"GET", "/nodes/a", 200, with("Content-Type", "text/html"), node, "text/html"},
		"an undescribed member":    {"GET", "/nodes/a", 200, stored, strings.Replace(node, "{", `{"new":1,`, 1), "new"},
		"a missing member":         {"GET", "/nodes/a", 200, stored, strings.Replace(node, `"slot":0,`, "", 1), "slot"},
		"a member of another type": {"GET", "/nodes/a", 200, stored, strings.Replace(node, `"slot":0`, `"slot":"0"`, 1), "slot"},
		"a code of another status": {"GET", "/nodes/a", 404, http.Header{"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-cache"}, "Nodesmetadata-Revision": {"1"}},
			`{"type":"about:blank","title":"Not Found","status":404,"detail":"x","code":"busy","error":"x"}`, "node_not_found"},
		"a body that is not described": {"GET", "/nodes/a", 304, with("Content-Type", ""), node, "body"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), test.method, "http://h"+test.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = describe(t).checkResponse(request, &http.Response{StatusCode: test.status, Header: test.header}, []byte(test.body))
			if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("error = %v, want one about %q", err, test.fault)
			}
		})
	}
	for target, body := range map[string]string{
		"/nodes/a?since=1":                       `{"address":"h:1"}`,
		"/nodes/a?redirect=perhaps":              `{"address":"h:1"}`,
		"/nodes/a?redirect=false&redirect=false": `{"address":"h:1"}`,
		"/nodes/-":                               `{"address":"h:1"}`,
		"/nodes/a?redirect=false&x":              `{"address":"h:1"}`,
		"/nodes/a?redirect=true":                 `{"address":"h:0"}`,
		"/nodes/a":                               `{"address":"h:1","new":1}`,
		"/nodes/b":                               `{}`,
		"/nodes/" + strings.Repeat("a", 129) + "?redirect": `{"address":"h:1"}`,
	} {
		request, err := http.NewRequestWithContext(t.Context(), "PUT", "http://h"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if describe(t).checkRequest(request, []byte(body)) == nil {
			t.Errorf("checkRequest accepts PUT %s with %s, want an error", target, body)
		}
	}
	if describe(t).checkEvent("/nodes/sse", "moved", "{}") == nil || describe(t).checkEvent("/nodes/sse", "added", "{}") == nil {
		t.Error("checkEvent accepts an unknown event or malformed data, want an error")
	}
}
