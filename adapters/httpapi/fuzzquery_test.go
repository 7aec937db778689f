package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// atOnce makes every wait end at once, with the state at that moment.
func atOnce(c *httpapi.Config) {
	nodes := c.Nodes.(*app.Nodes)
	c.Nodes = fakeNodes{Nodes: nodes, view: func(ctx context.Context) (domain.View, error) { return nodes.View(ctx, ports.Read{}) }}
}

func FuzzQuery(f *testing.F) {
	for name, parameter := range parameters {
		for _, value := range slices.Concat(parameter.good, parameter.bad) {
			f.Add(uint8(0), query(name, value)) // the list accepts every parameter
		}
	}
	for _, text := range []string{"", "&", "=", "?", "%", "%zz", ";", "a;b", "label=a=b&label=c=d", "pool=a&pool=a", "since=0&wait=60s&redirect=false",
		"consistency=stale&max_stale=1s&min_revision=1&pool=p&state=down&zone=&label=a=", "redirect=%74rue", "redirect=true&redirect", "\xff=\xff"} {
		for call := range parameterCalls {
			f.Add(uint8(call), text)
		}
	}
	s := start(f, atOnce)
	s.register(f, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1"})
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		call := parameterCalls[int(which)%len(parameterCalls)]
		method := call.method
		if call.stream {
			method = http.MethodHead // is decided like a GET, but ends
		}
		r := httptest.NewRequest(method, call.path, strings.NewReader(call.body))
		r.URL.RawQuery = text
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(endlessRecorder{w}, r)
		if s.log.String() != "" {
			t.Fatalf("log = %s, want none", s.log)
		}
		given, err := url.ParseQuery(text)
		if w.Code == http.StatusBadRequest {
			var problem struct{ Code, Detail string }
			if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || problem.Code != "invalid_request" || problem.Detail == "" {
				t.Errorf("problem = %s (%v), want invalid_request with a detail", w.Body, err)
			}
			return
		}
		if w.Code != call.status && w.Code != http.StatusNotModified {
			t.Errorf("%s %s?%q: answer = %d %s, want %d", method, call.path, text, w.Code, w.Body, call.status)
		}
		// Every part of a query that was accepted was understood.
		if err != nil {
			t.Errorf("the malformed query %q was accepted: %v", text, err)
		}
		for name, values := range given {
			if !slices.Contains(call.takes, name) || len(values) != 1 && name != "label" {
				t.Errorf("%s %s: the parameter in %q was accepted, although it is unknown or given twice", method, call.path, text)
			}
		}
		if call.path != "/nodes" || w.Code == http.StatusNotModified || method != http.MethodGet {
			return
		}
		// The order of the parameters does not matter.
		r = httptest.NewRequest(method, call.path+"?"+given.Encode(), nil)
		again := httptest.NewRecorder()
		s.Handler().ServeHTTP(again, r)
		if again.Code != w.Code || again.Body.String() != w.Body.String() {
			t.Errorf("answer to %q = %s\nand to %q = %s, want the same", text, w.Body, r.URL.RawQuery, again.Body)
		}
	})
}

func FuzzBatchBody(f *testing.F) {
	for _, body := range []string{
		changes(`{"put":{"id":"a","address":"h:1"}}`), changes(`{"remove":"keep"}`, `{"put":{"id":"b","address":"keep:1"}}`),
		changes(`{"put":{"id":"keep","address":"h:2","ttlSeconds":5,"onExpiry":"down"},"ifRevision":1}`), changes(`{"put":`+nodeB+`}`, `{"remove":"b"}`, `{"remove":"b"}`),
		changes(`{"put":{"id":"a","address":"h:1"},"ifRevision":0}`, `{"remove":"a","ifRevision":2}`), changes(`{"remove":"keep","ifRevision":0}`),
		changes(), changes(`{}`), changes(`null`), changes(`{"put":null}`), changes(`{"put":{},"remove":""}`), changes(`{"ifRevision":-1}`),
		changes(`{"ifRevision":1e3,"remove":"keep"}`), changes(`{"ifRevision":18446744073709551615,"remove":"keep"}`), changes(slices.Repeat([]string{`{"remove":"x"}`}, 1001)...),
		``, `null`, `[]`, `{}`, `{"changes":1}`, `{"changes":null}`, `{"changes":[],"changes":[]}`, `{} {}`, "{\"changes\":[{\"remove\":\"\xff\"}]}",
		strings.Repeat(`[`, 20_000), `{"changes":` + strings.Repeat(`[`, 20_000),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := prepare(t)
		s.register(t, domain.NodeSpec{ID: "keep", Address: "keep:1"})
		before := fuzzed(t, s, httptest.NewRequest(http.MethodGet, "/nodes", nil))
		w := fuzzed(t, s, httptest.NewRequest(http.MethodPost, "/nodes/batch", strings.NewReader(string(body))))
		after := fuzzed(t, s, httptest.NewRequest(http.MethodGet, "/nodes", nil))
		if w.Code != http.StatusOK {
			// A batch that is refused changes nothing.
			if before.Body.String() != after.Body.String() || after.Header().Get("ETag") != `"1"` {
				t.Errorf("answer = %d %s, and the registry was %s and is %s, want it unchanged", w.Code, w.Body, before.Body, after.Body)
			}
			return
		}
		var answer struct {
			Revision uint64
			Results  []struct {
				Type     string
				Revision uint64
				Node     json.RawMessage
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Results) == 0 {
			t.Fatalf("answer = %s (%v), want results", w.Body, err)
		}
		revision, nodes := uint64(1), map[string]string{}
		for _, result := range answer.Results {
			if result.Type != "unchanged" {
				revision++
			}
			var node rawNode
			if err := json.Unmarshal(result.Node, &node); err != nil || result.Revision != revision {
				t.Errorf("revision of a result = %d, want %d (%v) in %s", result.Revision, revision, err, w.Body)
			}
			nodes[node.id] = node.text
			if result.Type == "removed" {
				nodes[node.id] = ""
			}
		}
		tag := fmt.Sprintf(`"%d"`, revision)
		if answer.Revision != revision || after.Header().Get("ETag") != tag {
			t.Errorf("ETag of the list = %s, want %s after %s", after.Header().Get("ETag"), tag, w.Body)
		}
		for id, want := range nodes {
			got := fuzzed(t, s, httptest.NewRequest(http.MethodGet, "/nodes/"+id, nil))
			if want == "" && got.Code != http.StatusNotFound || want != "" && got.Body.String() != want {
				t.Errorf("node %q = %s, want %q after %s", id, got.Body, want, w.Body)
			}
		}
	})
}
