package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// fuzzed sends a request to s without a socket, so that it may be one that net/http would not
// send, and fails on a panic, a 5xx or a line in the log.
func fuzzed(t *testing.T, s *service, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if w.Code >= 500 || s.log.String() != "" {
		t.Errorf("%s %s: answer = %d %s, log = %s, want no 5xx and no log", r.Method, r.URL, w.Code, w.Body, s.log)
	}
	return w
}

func FuzzNodeBody(f *testing.F) {
	for _, body := range []string{
		`{"id":"a","address":"h:1"}`, nodeB, `{"id":"a","address":"h:1","labels":{"a":"b"},"zone":"z","pool":"p","state":"down","weight":0}`,
		``, `null`, `[]`, `{"id":null}`, `{"id":"a","id":"b"}`, `{} {}`, "{\"id\":\"\xff\"}", `{"weight":1e999}`, `{"slot":-0.0}`, strings.Repeat(`[`, 20_000),
	} {
		f.Add([]byte(body))
	}
	s := start(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		w := fuzzed(t, s, httptest.NewRequest(http.MethodPut, "/nodes", strings.NewReader(string(body))))
		if w.Code != http.StatusCreated && w.Code != http.StatusOK {
			return
		}
		// A node that was accepted can be read, sent back unchanged, and removed.
		stored := w.Body.String()
		node, err := s.only()
		if err != nil {
			t.Fatal(err)
		}
		if w := fuzzed(t, s, httptest.NewRequest(http.MethodGet, "/nodes/"+node.ID, nil)); w.Body.String() != stored {
			t.Errorf("node read = %s, want %s", w.Body, stored)
		}
		if w := fuzzed(t, s, httptest.NewRequest(http.MethodPut, "/nodes", strings.NewReader(stored))); w.Body.String() != stored {
			t.Errorf("answer to the node that was sent back = %s, want %s", w.Body, stored)
		}
		if w := fuzzed(t, s, httptest.NewRequest(http.MethodDelete, "/nodes/"+node.ID, nil)); w.Code != http.StatusOK {
			t.Errorf("answer to the removal = %d %s, want 200", w.Code, w.Body)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, path := range []string{"/nodes/a", "/nodes/%61", "/nodes/a%2Fb", "/nodes/%", "/nodes/%zz", "/raft/node/a?x=%zz", "/nodes/sse/", "/nodes?;", "//", "/%ff"} {
		for _, method := range []string{"GET", "DELETE", "HEAD", "BREW"} {
			f.Add(method, path)
		}
	}
	s := start(f, atOnce)
	f.Fuzz(func(t *testing.T, method, path string) {
		target, err := url.ParseRequestURI(path)
		if err != nil || target.Host != "" || strings.HasSuffix(target.Path, "/sse") || method == "" {
			return // net/http refuses the former; streams do not end
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL = method, target
		fuzzed(t, s, r)
	})
}

func FuzzConditions(f *testing.F) {
	for _, tag := range []string{`"1"`, `*`, ``, `W/"1"`, `"1", "2"`, `"`, `""`, `"01"`, `"18446744073709551616"`, "\xff"} {
		f.Add(tag, true, "PUT")
		f.Add(tag, false, "DELETE")
		f.Add(tag, false, "GET")
	}
	s := start(f)
	s.register(f, domain.NodeSpec{ID: "a", Address: "h:1"})
	f.Fuzz(func(t *testing.T, tag string, match bool, method string) {
		if method != "PUT" && method != "DELETE" && method != "GET" {
			return
		}
		r := httptest.NewRequest(method, "/nodes/a", strings.NewReader(`{"address":"h:1"}`))
		r.Header["If-None-Match"] = []string{tag}
		if match {
			r.Header["If-Match"] = r.Header["If-None-Match"]
			delete(r.Header, "If-None-Match")
		}
		if w := fuzzed(t, s, r); method == "DELETE" && w.Code == http.StatusOK {
			s.register(t, domain.NodeSpec{ID: "a", Address: "h:1"})
		}
	})
}

func FuzzStreamPosition(f *testing.F) {
	for _, position := range []string{"0", "1", "99", "", "-1", "01", "1_0", "18446744073709551615", "18446744073709551616", "\xff"} {
		f.Add(position, true)
		f.Add(position, false)
	}
	s := start(f)
	s.register(f, domain.NodeSpec{ID: "a", Address: "h:1"})
	f.Fuzz(func(t *testing.T, position string, header bool) {
		// A HEAD is decided like a GET, but ends.
		r := httptest.NewRequest(http.MethodHead, "/nodes/sse", nil)
		if header {
			r.Header["Last-Event-Id"] = []string{position}
		} else {
			r.URL.RawQuery = url.Values{"since": {position}}.Encode()
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(endlessRecorder{w}, r)
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest || s.log.String() != "" {
			t.Errorf("answer = %d %s, log = %s, want 200 or 400 and no log", w.Code, w.Body, s.log)
		}
	})
}
