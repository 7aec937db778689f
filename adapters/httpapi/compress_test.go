package httpapi_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// longList is the number of nodes of a list that is long enough to be compressed.
const longList = 1000

// list requests a list with these header lines, and returns its body decompressed.
func (s *service) list(t *testing.T, path string, header ...string) (w *httptest.ResponseRecorder, body string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	setHeader(r.Header, header)
	w = httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if length := w.Header().Get("Content-Length"); w.Code == http.StatusOK && length != strconv.Itoa(w.Body.Len()) {
		t.Errorf("%s: Content-Length = %s, want %d", path, length, w.Body.Len())
	}
	if w.Header().Get("Vary") != "Accept-Encoding" {
		t.Errorf("%s: status %d with Vary: %q, want Accept-Encoding", path, w.Code, w.Header().Get("Vary"))
	}
	if w.Header().Get("Content-Encoding") != "gzip" {
		return w, w.Body.String()
	}
	unpacked, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		t.Error(err)
	}
	return w, string(text)
}

func TestALongListIsCompressedForClientsThatAcceptIt(t *testing.T) {
	s := start(t)
	s.fill(t, longList)
	_, plain := s.list(t, "/nodes")
	for accept, compressed := range map[string]bool{
		"":                                false,
		"gzip":                            true,
		"GZIP":                            true,
		"x-gzip":                          true,
		"br, gzip":                        true,
		"deflate, gzip;q=1.0, *;q=0.5":    true,
		"*":                               true,
		"*;q=0.1":                         true,
		"gzip;q=0.001":                    true,
		"gzip; Q=0.5, identity;q=0.5":     true,
		"identity;q=0, gzip":              true,
		"identity":                        false,
		"br":                              false,
		"gzip;q=0":                        false,
		"gzip;q=0.000":                    false,
		"gzip;q=0, *":                     false,
		"*;q=0":                           false,
		"gzip;q=0.5, identity":            false,
		"gzip;q=0.5, identity;q=0.8":      false,
		"gzip;q=2":                        false,
		"gzip;q=1.001":                    false,
		"gzip;q=0.5000":                   false,
		"gzip;q=":                         false,
		"gzip;q=+1":                       false,
		"gzip;q=0.-1":                     false,
		"gzip;level=9":                    false,
		"gzipped":                         false,
		";;,,;q=1,":                       false,
		"gzip;q=0.5;q=1, br;q=0.9, *;q=0": false,
	} {
		w, got := s.list(t, "/nodes", "Accept-Encoding: "+accept)
		coding, tag := "", fmt.Sprintf(`"%d"`, longList)
		if compressed {
			coding = "gzip"
		}
		if w.Code != http.StatusOK || w.Header().Get("Content-Encoding") != coding || w.Header().Get("ETag") != tag {
			t.Errorf("%q: answer = %d with Content-Encoding %q and ETag %s, want 200 with %q and %s", accept, w.Code, w.Header().Get("Content-Encoding"), w.Header().Get("ETag"), coding, tag)
		}
		if got != plain {
			t.Errorf("%q: the list of %d bytes differs from the plain one", accept, len(got))
		}
	}
	// Two Accept-Encoding lines are one list.
	if w, _ := s.list(t, "/nodes", "Accept-Encoding: br", "Accept-Encoding: gzip"); w.Header().Get("Content-Encoding") != "gzip" {
		t.Error("the second Accept-Encoding line was ignored")
	}
}

func TestAShortListIsNotCompressed(t *testing.T) {
	s := start(t)
	s.fill(t, longList)
	zone := "here"
	s.register(t, domain.NodeSpec{ID: "a", Address: "a:1", Zone: zone})
	for _, made := range []bool{false, true} {
		if made { // the cached list must not wait for lists that are being encoded
			defer s.MakeLists()()
		}
		if w, _ := s.list(t, "/nodes?zone="+zone, "Accept-Encoding: gzip"); w.Header().Get("Content-Encoding") != "" || w.Header().Get("ETag") != `"1001"` {
			t.Errorf("answer = %d with Content-Encoding %q and ETag %s, want it uncompressed at revision 1001", w.Code, w.Header().Get("Content-Encoding"), w.Header().Get("ETag"))
		}
	}
}

func TestATagOfEitherKindNamesTheRevision(t *testing.T) {
	s := start(t)
	s.fill(t, longList)
	for _, accept := range []string{"identity", "gzip"} {
		whole, _ := s.list(t, "/nodes", "Accept-Encoding: "+accept)
		for _, given := range []string{`"1000"`, `W/"1000"`, `"7", W/"1000"`, "*"} {
			w, _ := s.list(t, "/nodes", "Accept-Encoding: "+accept, "If-None-Match: "+given)
			if w.Code != http.StatusNotModified || w.Body.Len() > 0 || w.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s, for %s: answer = %d with %d bytes, want 304 without a body", given, accept, w.Code, w.Body.Len())
			}
			if tag := w.Header().Get("ETag"); tag != whole.Header().Get("ETag") {
				t.Errorf("%s, for %s: ETag = %s, want %s", given, accept, tag, whole.Header().Get("ETag"))
			}
		}
		if w, _ := s.list(t, "/nodes", "Accept-Encoding: "+accept, `If-None-Match: W/"999", "1001"`); w.Code != http.StatusOK {
			t.Errorf("If-None-Match of other revisions, for %s: status = %d, want 200", accept, w.Code)
		}
	}
}

func TestAListIsCompressedOnceForAllClients(t *testing.T) {
	s := start(t)
	s.fill(t, 10*longList)
	var all sync.WaitGroup
	seen := make([]any, 32)
	for i := range seen {
		all.Go(func() {
			s.list(t, "/nodes", "Accept-Encoding: gzip")
			seen[i] = s.Compressed()
		})
	}
	all.Wait()
	for _, list := range seen {
		if list != s.Compressed() {
			t.Fatal("the list was compressed again")
		}
	}
}

func TestACompressedListIsAsFreshAsTheLastWrite(t *testing.T) {
	s := start(t)
	s.fill(t, longList)
	const writers, writes = 3, 40
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range writes {
				weight := i + 1000
				id := fmt.Sprintf("node%06d", w)
				written := s.register(t, domain.NodeSpec{ID: id, Address: fmt.Sprintf("h%d:1", w), Weight: &weight})
				answer, text := s.list(t, "/nodes", "Accept-Encoding: gzip")
				var nodes map[string]struct{ Weight int }
				if err := json.Unmarshal([]byte(text), &nodes); err != nil || nodes[id].Weight != weight {
					t.Errorf("weight of %s = %d, want %d, answered at revision %d: %v", id, nodes[id].Weight, weight, written.Revision, err)
				}
				revision := answer.Header().Get("Nodesmetadata-Revision")
				if n, _ := strconv.ParseUint(revision, 10, 64); n < uint64(written.Revision) || answer.Header().Get("ETag") != `"`+revision+`"` {
					t.Errorf("revision of the list = %s, ETag = %s, want the same and at least %d", revision, answer.Header().Get("ETag"), written.Revision)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkEncodeList(b *testing.B) {
	view := benchmarkView(b)
	length, _ := httpapi.EncodeList(view)
	b.SetBytes(int64(length))
	b.ReportAllocs()
	for b.Loop() {
		httpapi.EncodeList(view)
	}
}

func BenchmarkCompressList(b *testing.B) {
	length, compress := httpapi.EncodeList(benchmarkView(b))
	b.SetBytes(int64(length))
	b.ReportAllocs()
	compressed := 0
	for b.Loop() {
		compressed = compress()
	}
	b.ReportMetric(float64(length)/float64(compressed), "ratio")
}

func benchmarkView(b *testing.B) domain.View {
	s := prepare(b)
	s.fill(b, 10*longList)
	state, _ := s.instance.State()
	return state.View
}
