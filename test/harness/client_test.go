package harness_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// echoing returns a client of a server that answers with the query, as an empty list of nodes.
func echoing(t *testing.T) *harness.Client {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.RawQuery)
	}))
	t.Cleanup(server.Close)
	return harness.NewClient(t, strings.TrimPrefix(server.URL, "http://"))
}

func TestAClientAddsItsQueryToEachRequest(t *testing.T) {
	plain := echoing(t)
	tests := map[string]struct {
		client     *harness.Client
		path, want string
	}{
		"no query":              {plain, "/nodes", ""},
		"a query in the path":   {plain, "/nodes?a=1", "a=1"},
		"a query of the client": {plain.With("b=2"), "/nodes", "b=2"},
		"a query of the client and one in the path": {plain.With("b=2"), "/nodes?a=1", "a=1&b=2"},
		"two queries of the client":                 {plain.With("b=2").With("").With("c=3"), "/nodes", "b=2&c=3"},
		"a wait":                                    {plain.With("b=2").Waiting(longer), "/nodes", "b=2&wait=20s"},
		"without redirects":                         {plain.With("b=2").NotFollowing(), "/nodes", "b=2"},
		"the original again":                        {plain, "/nodes", ""},
	}
	for name, test := range tests {
		answer, err := test.client.Do(t.Context(), http.MethodGet, test.path, nil)
		if err != nil || string(answer.Body) != test.want {
			t.Errorf("%s: query = %q, %v, want %q", name, answer.Body, err, test.want)
		}
	}
}

func TestAFilterMatchesAsItsQueryDoes(t *testing.T) {
	none := ""
	node := harness.Node{ID: "a", Pool: "p", State: "active", Labels: map[string]string{"rack": "1", "disk": "<&>"}}
	tests := map[string]struct {
		filter harness.Filter
		query  string
		want   bool
	}{
		"no filter":                  {harness.Filter{}, "", true},
		"the pool of the node":       {harness.Filter{Pool: "p"}, "pool=p", true},
		"another pool":               {harness.Filter{Pool: "q"}, "pool=q", false},
		"another state":              {harness.Filter{Pool: "p", State: "down"}, "pool=p&state=down", false},
		"the empty zone":             {harness.Filter{Zone: &none}, "zone=", true},
		"a label of the node":        {harness.Filter{Labels: map[string]string{"disk": "<&>"}}, "label=disk%3D%3C%26%3E", true},
		"a label with another value": {harness.Filter{Labels: map[string]string{"rack": "2"}}, "label=rack%3D2", false},
		"a missing label":            {harness.Filter{Labels: map[string]string{"row": ""}}, "label=row%3D", false},
	}
	for name, test := range tests {
		if got := test.filter.Matches(node); got != test.want || test.filter.Query() != test.query {
			t.Errorf("%s: Matches = %v, Query = %q, want %v, %q", name, got, test.filter.Query(), test.want, test.query)
		}
		left := test.filter.Of(harness.Registry{Revision: 3, Nodes: map[string]harness.Node{"a": node}})
		if _, there := left.Nodes["a"]; there != test.want || left.Revision != 3 {
			t.Errorf("%s: Of = %+v, want the node: %v", name, left, test.want)
		}
	}
}

func TestStreamBytesHaveNoCommentsAndEndWithTheirEvent(t *testing.T) {
	const events = "retry: 1000\nevent: a\nid: 5\ndata: x\n\nid: 6\ndata: id: 7\n\nevent: b\nid: 7\ndata: y\n\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") != "4" || r.URL.RawQuery != "redirect=false" {
			t.Errorf("request for %v with Last-Event-ID %q, want the query redirect=false and the id 4", r.URL, r.Header.Get("Last-Event-ID"))
		}
		_, _ = io.WriteString(w, ": hello\n\n"+strings.ReplaceAll(events, "\n\nid", "\n\n: keep-alive\n\nid")+"id: 8\ndata: z\n\n")
	}))
	defer server.Close()
	client := harness.NewClient(t, strings.TrimPrefix(server.URL, "http://")).With("redirect=false")
	tape, err := client.StreamBytes(t.Context(), "/nodes/sse", 4, 7)
	if err != nil || string(tape) != events {
		t.Errorf("StreamBytes = %q, %v, want %q", tape, err, events)
	}
	if tape, err := client.StreamBytes(t.Context(), "/nodes/sse", 4, 9); err == nil {
		t.Errorf("StreamBytes of a stream that ended too early = %q, want an error", tape)
	}
}

func TestAnObservedClientReportsEachExchange(t *testing.T) {
	leader := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"code":"no_leader"}`)
	}))
	defer leader.Close()
	follower := httptest.NewServer(http.RedirectHandler(leader.URL+"/nodes", http.StatusTemporaryRedirect))
	defer follower.Close()
	gone := httptest.NewServer(nil)
	gone.Close()

	var seen []harness.Exchange
	observe := func(server *httptest.Server) *harness.Client {
		return harness.NewClient(t, strings.TrimPrefix(server.URL, "http://")).Observed(func(e harness.Exchange) { seen = append(seen, e) })
	}
	for _, server := range []*httptest.Server{follower, gone} {
		if _, err := observe(server).Do(t.Context(), http.MethodGet, "/nodes", nil); err == nil {
			t.Errorf("%s answered, want a failed request", server.URL)
		}
	}
	if len(seen) != 3 || seen[0].Status != 307 || seen[1].Status != 503 || seen[1].Header.Get("Retry-After") != "1" || seen[1].Code != "no_leader" || seen[2].Status != 0 || seen[2].Err == nil {
		t.Fatalf("exchanges = %+v, want 307, then 503 no_leader with Retry-After: 1, then an error", seen)
	}
	for n, server := range []*httptest.Server{follower, leader, gone} {
		if e := seen[n]; "http://"+e.To != server.URL || e.Method != http.MethodGet || e.Path != "/nodes" || e.Took <= 0 || e.Began.IsZero() {
			t.Errorf("exchange %d = %+v, want a GET of /nodes to %s with its times", n, e, server.URL)
		}
	}
}
