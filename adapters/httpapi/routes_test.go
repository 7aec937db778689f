package httpapi_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestAWrongMethodIsAnsweredWithTheAllowedOnes(t *testing.T) {
	s := start(t)
	for path, allow := range map[string]string{
		"/nodes":             "GET, HEAD, PUT",
		"/nodes/a":           "DELETE, GET, HEAD, PUT",
		"/nodes/%61":         "DELETE, GET, HEAD, PUT",
		"/nodes/sse":         "GET, HEAD",
		"/nodes/batch":       "POST",
		"/nodes/expire":      "DELETE, GET, HEAD, POST, PUT",
		"/nodes/%65xpire":    "DELETE, GET, HEAD, PUT", // an encoded letter makes this the id of a node
		"/nodes/a/heartbeat": "POST",
		"/raft/node":         "PUT",
		"/raft/node/n1":      "DELETE",
		"/raft/leadership":   "POST",
		"/raft/metadata":     "GET, HEAD",
		"/raft/metadata/sse": "GET, HEAD",
		"/livez":             "GET, HEAD",
		"/readyz":            "GET, HEAD",
		"/version":           "GET, HEAD",
		"/metrics":           "GET, HEAD",
	} {
		for _, method := range []string{"POST", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "GET", "HEAD", "PUT", "DELETE"} {
			if slices.Contains(strings.Split(allow, ", "), method) {
				continue
			}
			got := s.do(t, method, path, "")
			if got.status != 405 || got.header.Get("Allow") != allow {
				t.Errorf("%s %s: status = %d, Allow = %q, want 405 and %q", method, path, got.status, got.header.Get("Allow"), allow)
			}
			if method == "HEAD" {
				continue
			}
			if code, detail := got.problem(t); code != "method_not_allowed" || !strings.Contains(detail, method) {
				t.Errorf("%s %s: code = %s, detail = %s, want method_not_allowed naming the method", method, path, code, detail)
			}
		}
	}
}

func TestAnUnknownPathIsAProblem(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/", "/node", "/nodes/", "//nodes", "/nodes/a/b", "/raft", "/raft/node/", "/NODES", "/nodes/%2e%2e/x", "/%ff"} {
		for _, method := range []string{"GET", "PUT", "PROPFIND"} {
			got := s.do(t, method, path, "")
			if code, _ := got.problem(t); got.status != 404 || code != "not_found" {
				t.Errorf("%s %s: answer = %d %s, want 404 not_found", method, path, got.status, code)
			}
		}
	}
}

// net/http would answer this request itself, without calling the handler.
func TestTheTargetAsteriskIsUnknown(t *testing.T) {
	s := start(t)
	conn := s.dial(t, "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 404 ") || !strings.Contains(string(answer), `"code":"not_found"`) {
		t.Errorf("answer = %q, %v, want 404 not_found", answer, err)
	}
	if n := s.metric(t, "nodesmetadata_http_requests_total", "unmatched"); n != 1 {
		t.Errorf("unmatched requests counted = %v, want 1", n)
	}
}

const clusterOfTwo = `{"nodesMetadata":{` +
	`"n1":{"nodeID":"n1","raftAddress":"127.0.0.1:7000","applicationAddress":"n1.test:8080","suffrage":"voter","reachable":true,"version":"v1"},` +
	`"n2":{"nodeID":"n2","raftAddress":"127.0.0.1:7002","applicationAddress":"","suffrage":"voter","reachable":false,"version":""}},` +
	`"leaderNodeID":"n1","term":1,"clusterID":"cluster-of-n1"}`

func TestRaftCalls(t *testing.T) {
	tests := map[string]struct {
		method, path, body string
		header             []string

		status   int
		want     string // if the status is 200
		code     string // of the problem otherwise
		mentions string
	}{
		"an instance is added as a voter": {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"h3:7000"}`,
			status: 200, want: `{"id":"n3","address":"h3:7000","suffrage":"voter"}`},
		"an instance is added as a nonvoter": {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"h3:7000","suffrage":"nonvoter"}`,
			status: 200, want: `{"id":"n3","address":"h3:7000","suffrage":"nonvoter"}`},
		"a silent instance is added by force": {method: "PUT", path: "/raft/node?force=true", body: `{"id":"n4","address":"h4:7000"}`,
			status: 200, want: `{"id":"n4","address":"h4:7000","suffrage":"nonvoter"}`},
		"a silent nonvoter is added by force": {method: "PUT", path: "/raft/node?force=true", body: `{"id":"n4","address":"h4:7000","suffrage":"nonvoter"}`,
			status: 200, want: `{"id":"n4","address":"h4:7000","suffrage":"nonvoter"}`},
		"an instance that answers is added by force as a voter": {method: "PUT", path: "/raft/node?force=true", body: `{"id":"n3","address":"h3:7000"}`,
			status: 200, want: `{"id":"n3","address":"h3:7000","suffrage":"voter"}`},
		"an instance is moved by force to a silent address": {method: "PUT", path: "/raft/node?force=true", body: `{"id":"n2","address":"h4:7000"}`,
			status: 200, want: `{"id":"n2","address":"h4:7000","suffrage":"voter"}`},
		"a silent instance is not added without force": {method: "PUT", path: "/raft/node?force=false", body: `{"id":"n4","address":"h4:7000"}`,
			status: 422, code: "instance_unreachable", mentions: "h4:7000"},
		"a silent nonvoter is not added without force": {method: "PUT", path: "/raft/node", body: `{"id":"n4","address":"h4:7000","suffrage":"nonvoter"}`,
			status: 422, code: "instance_unreachable", mentions: `"n4"`},
		"an instance is not moved to a silent address": {method: "PUT", path: "/raft/node", body: `{"id":"n2","address":"h4:7000"}`,
			status: 422, code: "instance_unreachable", mentions: "h4:7000"},
		"another instance answers": {method: "PUT", path: "/raft/node", body: `{"id":"n4","address":"h3:7000"}`,
			status: 409, code: "id_mismatch", mentions: `"n3"`},
		"an instance of another cluster answers": {method: "PUT", path: "/raft/node", body: `{"id":"n9","address":"h9:7000"}`,
			status: 409, code: "other_cluster", mentions: "cluster-of-n9"},
		"a silent voter is demoted": {method: "PUT", path: "/raft/node", body: `{"id":"n2","address":"127.0.0.1:7002","suffrage":"nonvoter"}`,
			status: 200, want: `{"id":"n2","address":"127.0.0.1:7002","suffrage":"nonvoter"}`},
		"leadership goes to a named instance":               {method: "POST", path: "/raft/leadership", body: `{"id":"n2"}`, status: 200, want: `{"leaderNodeID":"n2"}`},
		"leadership goes to any other voter without a body": {method: "POST", path: "/raft/leadership", status: 200, want: `{"leaderNodeID":"n2"}`},
		"leadership goes to any other voter without an id":  {method: "POST", path: "/raft/leadership", body: `{}`, status: 200, want: `{"leaderNodeID":"n2"}`},
		"leadership stays if the leader is named":           {method: "POST", path: "/raft/leadership", body: `{"id":"n1"}`, status: 200, want: `{"leaderNodeID":"n1"}`},
		"leadership for an unknown instance":                {method: "POST", path: "/raft/leadership", body: `{"id":"n9"}`, status: 404, code: "instance_not_found", mentions: `"n9"`},
		"leadership for a nonvoter":                         {method: "POST", path: "/raft/leadership", body: `{"id":"n5"}`, status: 409, code: "not_voter", mentions: `"n5"`},
		"leadership for an empty id":                        {method: "POST", path: "/raft/leadership", body: `{"id":""}`, status: 400, code: "invalid_request", mentions: "id"},
		"leadership for the id null":                        {method: "POST", path: "/raft/leadership", body: `{"id":null}`, status: 400, code: "invalid_json", mentions: `"id"`},
		"leadership with an unknown field":                  {method: "POST", path: "/raft/leadership", body: `{"nodeID":"n2"}`, status: 400, code: "invalid_json", mentions: `"nodeID"`},
		"leadership with a condition":                       {method: "POST", path: "/raft/leadership", header: []string{`If-Match: "1"`}, status: 400, code: "invalid_request", mentions: "If-Match"},
		"an instance moves": {method: "PUT", path: "/raft/node", body: `{"id":"n2","address":"h2:7001"}`,
			status: 200, want: `{"id":"n2","address":"h2:7001","suffrage":"voter"}`},
		"an instance is removed": {method: "DELETE", path: "/raft/node/n2",
			status: 200, want: `{"id":"n2","address":"127.0.0.1:7002","suffrage":"voter"}`},
		"an address in use": {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"127.0.0.1:7002"}`,
			status: 409, code: "address_in_use", mentions: `"n2"`},
		"a removal of an unknown instance":         {method: "DELETE", path: "/raft/node/n9", status: 404, code: "instance_not_found", mentions: `"n9"`},
		"an invalid id":                            {method: "PUT", path: "/raft/node", body: `{"id":"-","address":"h:1"}`, status: 400, code: "invalid_request", mentions: "id"},
		"an invalid id in a path":                  {method: "DELETE", path: "/raft/node/a%20b", status: 400, code: "invalid_request", mentions: `"a b"`},
		"a wildcard address":                       {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"0.0.0.0:1"}`, status: 400, code: "invalid_request", mentions: "address"},
		"an empty suffrage":                        {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"h:1","suffrage":""}`, status: 400, code: "invalid_request", mentions: "suffrage"},
		"all faults at once":                       {method: "PUT", path: "/raft/node", body: `{"suffrage":"x"}`, status: 400, code: "invalid_request", mentions: "; suffrage"},
		"null for the suffrage":                    {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"h:1","suffrage":null}`, status: 400, code: "invalid_json", mentions: `"suffrage"`},
		"an unknown field":                         {method: "PUT", path: "/raft/node", body: `{"nodeID":"n3"}`, status: 400, code: "invalid_json", mentions: `"nodeID"`},
		"no body":                                  {method: "PUT", path: "/raft/node", status: 400, code: "invalid_json", mentions: "empty"},
		"a parameter":                              {method: "PUT", path: "/raft/node?suffrage=voter", body: `{}`, status: 400, code: "invalid_request", mentions: `"suffrage"`},
		"a condition on an addition":               {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"h:1"}`, header: []string{"If-None-Match: *"}, status: 400, code: "invalid_request", mentions: "If-None-Match"},
		"a condition on a removal":                 {method: "DELETE", path: "/raft/node/n2", header: []string{`If-Match: "1"`}, status: 400, code: "invalid_request", mentions: "If-Match"},
		"a wait for a description of the cluster":  {method: "GET", path: "/raft/metadata?min_revision=1", status: 400, code: "invalid_request", mentions: `"min_revision"`},
		"a position in a stream of the cluster":    {method: "GET", path: "/raft/metadata/sse?since=1", status: 400, code: "invalid_request", mentions: `"since"`},
		"the cluster is described":                 {method: "GET", path: "/raft/metadata", status: 200, want: clusterOfTwo},
		"a description may be stale":               {method: "GET", path: "/raft/metadata?consistency=stale", status: 200, want: clusterOfTwo},
		"a description may come from any instance": {method: "GET", path: "/raft/metadata?redirect=false", status: 200, want: clusterOfTwo},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.addSecond(t)
			s.addNeighbours()
			if strings.Contains(test.body, "n5") {
				nonvoter := domain.Instance{ID: "n5", RaftAddress: "h5:7000", Suffrage: domain.Nonvoter}
				if err := s.instance.Add(t.Context(), nonvoter); err != nil {
					t.Fatal(err)
				}
			}
			got := s.do(t, test.method, test.path, test.body, test.header...)
			if got.status != test.status {
				t.Fatalf("answer = %d %s, want %d", got.status, got.body, test.status)
			}
			if test.status == 200 {
				if got.body != test.want {
					t.Errorf("answer = %s\nwant     %s", got.body, test.want)
				}
				return
			}
			if code, detail := got.problem(t); code != test.code || !strings.Contains(detail, test.mentions) {
				t.Errorf("code = %s, detail = %s, want %s mentioning %s", code, detail, test.code, test.mentions)
			}
		})
	}
}

// addSecond makes n2 a member.
func (s *service) addSecond(t testing.TB) {
	t.Helper()
	second := domain.Instance{ID: "n2", RaftAddress: "127.0.0.1:7002", Suffrage: domain.Voter}
	if err := s.instance.Add(context.Background(), second); err != nil {
		t.Fatal(err)
	}
}

// addNeighbours makes instances that are not members answer at their addresses: the new n3,
// n2 at an address to move to, and n9 of another cluster.
func (s *service) addNeighbours() {
	s.peers.Answer("h3:7000", ports.Identity{RaftID: "n3", ApplicationAddress: "n3.test:8080", ClusterID: "cluster-of-n1"})
	s.peers.Answer("h2:7001", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8080", ClusterID: "cluster-of-n1"})
	s.peers.Answer("h9:7000", ports.Identity{RaftID: "n9", ApplicationAddress: "n9.test:8080", ClusterID: "cluster-of-n9"})
}

func TestTheOnlyVoterCannotHandOver(t *testing.T) {
	s := start(t)
	got := s.do(t, "POST", "/raft/leadership", "")
	if code, _ := got.problem(t); got.status != 409 || code != "last_voter" {
		t.Errorf("answer = %d %s, want 409 last_voter", got.status, code)
	}
}

// An instance is a nonvoter until it has caught up. If that takes too long, the client is told
// so.
func TestAnAdditionThatTakesLongEndsInTime(t *testing.T) {
	s := start(t, func(c *httpapi.Config) { c.RequestTimeout = 300 * time.Millisecond })
	s.addNeighbours()
	s.instance.Change(func(state *ports.LocalState) { state.Applied = 7 })
	began := time.Now()
	got := s.do(t, "PUT", "/raft/node", `{"id":"n3","address":"h3:7000"}`)
	if code, detail := got.problem(t); got.status != 503 || code != "outcome_unknown" || !strings.Contains(detail, "nonvoter until it has caught up") {
		t.Errorf("answer = %d %s, want 503 outcome_unknown with the reason", got.status, got.body)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the answer took %v, want at most 2s", took)
	}
	state, _ := s.instance.State()
	if now, _ := state.Roster.Find("n3"); now.Suffrage != domain.Nonvoter {
		t.Errorf("n3 = %+v, want a nonvoter", now)
	}
	s.peers.Answer("h3:7000", ports.Identity{RaftID: "n3", ClusterID: "cluster-of-n1", Applied: 7})
	eventually(t, "n3 is a voter", func() bool {
		state, _ := s.instance.State()
		now, _ := state.Roster.Find("n3")
		return now.Suffrage == domain.Voter
	})
}

func TestTheLastVoterStays(t *testing.T) {
	s := start(t)
	got := s.do(t, "DELETE", "/raft/node/n1", "")
	if code, _ := got.problem(t); got.status != 409 || code != "last_voter" {
		t.Errorf("answer = %d %s, want 409 last_voter", got.status, code)
	}
}

func TestTheRemovalOfTheLeaderIsRedirectedToItsSuccessor(t *testing.T) {
	s := start(t)
	s.addSecond(t)
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8080"})
	got := s.do(t, "DELETE", "/raft/node/n1", "")
	if got.status != 307 || got.header.Get("Location") != "http://n2.test:8080/raft/node/n1" {
		t.Errorf("answer = %d to %q, want 307 to n2", got.status, got.header.Get("Location"))
	}
}

func TestAnInstanceAnswersForItself(t *testing.T) {
	s := start(t)
	s.loseLeader()
	if got := s.do(t, "GET", "/livez?verbose", ""); got.status != 200 || got.body != `{"live":true}` {
		t.Errorf("livez: answer = %d %s, want 200", got.status, got.body)
	}

	got := s.do(t, "GET", "/readyz", "")
	if got.status != 503 || got.header.Get("Retry-After") != "1" || !strings.Contains(got.body, `"ready":false,"reasons":["it knows no leader"]`) {
		t.Errorf("readyz without a leader: answer = %d %v %s, want 503 with Retry-After: 1 and the reason", got.status, got.header, got.body)
	}
	s.lead()
	s.register(t, domain.NodeSpec{ID: "a", Address: "h:1"})
	got = s.do(t, "GET", "/readyz", "")
	const ready = `{"ready":true,"reasons":[],"member":true,"leading":true,"leaderNodeID":"n1","term":2,"clusterID":"cluster-of-n1","revision":1}`
	if got.status != 200 || got.body != ready || got.header.Get("Nodesmetadata-Revision") != "1" {
		t.Errorf("readyz: answer = %d %s, want 200 %s", got.status, got.body, ready)
	}

	got = s.do(t, "GET", "/version", "")
	var version struct{ Version, GoVersion string }
	if err := json.Unmarshal([]byte(got.body), &version); err != nil || version.Version != "v1" || !strings.HasPrefix(version.GoVersion, "go1.") {
		t.Errorf("version = %s, want v1 and a version of Go", got.body)
	}
}

func TestMetricsCountRequestsByRouteMethodAndCode(t *testing.T) {
	s := start(t)
	s.do(t, "PUT", "/nodes/a", `{"address":"h:1"}`)
	s.do(t, "GET", "/nodes/a", "")
	s.do(t, "GET", "/nodes/b", "")
	s.do(t, "BREW", "/nodes/b", "")
	s.do(t, "GET", "/coffee", "")
	s.do(t, "POST", "/nodes/a/heartbeat", "", "Sec-Fetch-Site: cross-site")
	s.do(t, "GET", "/metrics", "")
	s.do(t, "GET", "/nodes/sse?x", "")
	got := s.do(t, "GET", "/metrics?x", "")
	for _, line := range []string{
		`nodesmetadata_http_requests_total{code="201",method="PUT",route="/nodes/{id}"} 1`,
		`nodesmetadata_http_requests_total{code="200",method="GET",route="/nodes/{id}"} 1`,
		`nodesmetadata_http_requests_total{code="404",method="GET",route="/nodes/{id}"} 1`,
		`nodesmetadata_http_requests_total{code="405",method="other",route="/nodes/{id}"} 1`,
		`nodesmetadata_http_requests_total{code="404",method="any",route="unmatched"} 1`,
		`nodesmetadata_http_request_duration_seconds_count{method="GET",route="/nodes/{id}"} 2`,
		`nodesmetadata_http_request_duration_seconds_count{method="other",route="/nodes/{id}"} 1`,
		`nodesmetadata_http_request_duration_seconds_count{method="any",route="unmatched"} 1`,
		`nodesmetadata_http_request_duration_seconds_count{method="POST",route="/nodes/{id}/heartbeat"} 1`,
		`nodesmetadata_http_request_duration_seconds_count{method="GET",route="/metrics"} 1`,
		`nodesmetadata_http_streams_open{stream="nodes"} 0`,
		`nodesmetadata_http_redirects_total 0`,
	} {
		if !strings.Contains(got.body, line+"\n") {
			t.Errorf("metrics lack the line %s", line)
		}
	}
	if strings.Contains(got.body, `nodesmetadata_http_request_duration_seconds_count{method="GET",route="/nodes/sse"}`) {
		t.Error("the duration of streams is measured")
	}
	if strings.Contains(got.body, "BREW") || strings.Contains(got.body, "coffee") {
		t.Error("a label contains what a client sent")
	}
}

func TestAConfigReportsAllItsFaults(t *testing.T) {
	_, err := httpapi.New(httpapi.Config{
		RequestTimeout: 11 * time.Second, HeaderTimeout: 10 * time.Second,
		IdleTimeout: -1, KeepAlive: -1, StalledTimeout: -1, MaxBodyBytes: -1,
		MaxPendingConnections: -1, PendingGrace: -1, MaxConnections: 1,
	})
	if err == nil {
		t.Fatal("New = nil, want an error")
	}
	for _, word := range []string{"bind address is not", "nodes is not", "leases is not", "backups is not", "cluster is not", "locator is not", "local is not",
		"request timeout", "header timeout", "idle timeout", "keep-alive", "stalled timeout", "body bytes", "maximum of pending connections", "grace of pending connections", "of connections 1"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error = %v, want it to mention %q", err, word)
		}
	}
}

func TestTwoServersDoNotShareNamesOfMetrics(t *testing.T) {
	s := prepare(t)
	_, err := httpapi.New(httpapi.Config{
		BindAddress: "127.0.0.1:0", Nodes: fakeNodes{}, Leases: s.leases, Backups: fakeBackups{}, Cluster: s.cluster, Locator: app.NewLeaderLocator(app.Inquiry{}), Local: s.instance, Metrics: s.metrics,
	})
	if err == nil || !strings.Contains(err.Error(), "duplicate metrics collector") {
		t.Errorf("error of registering the same metrics twice = %v, want a duplicate", err)
	}
}

func TestTheServerServesOnIPv6AndOverHTTP2(t *testing.T) {
	s := start(t, func(c *httpapi.Config) { c.BindAddress = "[::1]:0" })
	s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1"})
	s.useHTTP2()
	got := s.do(t, "GET", "/nodes/a", "")
	if got.status != 200 || got.body != nodeA {
		t.Errorf("answer = %d %s, want 200 with node a", got.status, got.body)
	}
	events := s.stream(t, "/nodes/sse")
	if got := events.event(t); got.kind != "snapshot" {
		t.Errorf("event = %+v, want a snapshot", got)
	}
}

// A page of another origin must not change anything without the knowledge of the user, whatever
// the browser lets it send. Clients that are not browsers are not affected.
func TestAPageOfAnotherOriginChangesNothing(t *testing.T) {
	s := start(t)
	s.do(t, "PUT", "/nodes/a", `{"address":"10.0.0.1:1"}`)
	own := "Origin: http://" + s.address
	const batch = `{"changes":[{"remove":"a"},{"put":{"id":"a","address":"10.0.0.1:1"}}]}`
	for name, test := range map[string]struct {
		method, path, body string
		header             []string
		status             int
	}{
		"a page of another site":                       {"POST", "/nodes/batch", batch, []string{"Sec-Fetch-Site: cross-site"}, 403},
		"a page of another host of the site":           {"POST", "/nodes/batch", batch, []string{"Sec-Fetch-Site: same-site"}, 403},
		"a page of another origin, in an old browser":  {"POST", "/nodes/batch", batch, []string{"Origin: http://evil.example"}, 403},
		"a page without an origin, in an old browser":  {"POST", "/nodes/batch", batch, []string{"Origin: null"}, 403},
		"a page of another site, without a body":       {"POST", "/nodes/expire", "", []string{"Sec-Fetch-Site: cross-site"}, 403},
		"a page of another site, with a removal":       {"DELETE", "/nodes/a", "", []string{"Sec-Fetch-Site: cross-site"}, 403},
		"a page of another site, with a restore":       {"POST", "/raft/restore", emptyBackup, []string{"Sec-Fetch-Site: cross-site"}, 403},
		"a page of the same origin":                    {"POST", "/nodes/batch", batch, []string{"Sec-Fetch-Site: same-origin", own}, 200},
		"a page of the same origin, in an old browser": {"POST", "/nodes/batch", batch, []string{own}, 200},
		"a request by the user of the browser":         {"POST", "/nodes/batch", batch, []string{"Sec-Fetch-Site: none"}, 200},
		"a client that is no browser":                  {"POST", "/nodes/batch", batch, nil, 200},
		"a page of another site, with a read":          {"GET", "/nodes/a", "", []string{"Sec-Fetch-Site: cross-site"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.do(t, test.method, test.path, test.body, test.header...)
			if got.status != test.status {
				t.Errorf("answer = %d %s, want %d", got.status, got.body, test.status)
			}
			if test.status == http.StatusForbidden {
				if code, _ := got.problem(t); code != "cross_origin" {
					t.Errorf("code = %q, want cross_origin", code)
				}
			}
			if there := s.do(t, "GET", "/nodes/a", ""); there.status != 200 {
				t.Errorf("status of the node afterwards = %d, want 200", there.status)
			}
		})
	}
}
