package httpapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// leased is node l at revision 4 of the seeded registry, with a time to live of an hour.
const (
	putLeased = `{"address":"10.0.0.4:1","ttlSeconds":3600,"onExpiry":"down"}`
	leased    = `{"id":"l","address":"10.0.0.4:1","pool":"default","weight":100,"state":"active","ttlSeconds":3600,"onExpiry":"down","slot":2,"createdRevision":4,"revision":4}`
)

func TestHeartbeats(t *testing.T) {
	huge := strings.Repeat("x", 1<<20+1)
	tests := map[string]struct {
		path, body string
		header     []string

		status   int
		want     string // if the status is 200
		code     string // of the problem otherwise
		mentions string
	}{
		"without a body":                         {path: "/nodes/l/heartbeat", status: 200, want: leased},
		"with an empty object":                   {path: "/nodes/l/heartbeat", body: `{}`, status: 200, want: leased},
		"with a body that is not JSON":           {path: "/nodes/l/heartbeat", body: "\xff{", status: 200, want: leased},
		"with a body of another type":            {path: "/nodes/l/heartbeat", body: "a=b", header: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 200, want: leased},
		"with an encoded id":                     {path: "/nodes/%6c/heartbeat", status: 200, want: leased},
		"with an encoded slash before heartbeat": {path: "/nodes/l%2Fheartbeat", status: 405, code: "method_not_allowed", mentions: "POST"},
		"of an unknown node":                     {path: "/nodes/x/heartbeat", status: 404, code: "node_not_found", mentions: `"x"`},
		"of an unknown node with an encoded id":  {path: "/nodes/x%3Ay/heartbeat", status: 404, code: "node_not_found", mentions: `"x:y"`},
		"of a node without a time to live":       {path: "/nodes/a/heartbeat", status: 409, code: "no_time_to_live", mentions: `"a"`},
		"of a reserved id":                       {path: "/nodes/sse/heartbeat", status: 400, code: "invalid_request", mentions: `"sse"`},
		"of another reserved id":                 {path: "/nodes/batch/heartbeat", status: 400, code: "invalid_request", mentions: `"batch"`},
		"of an invalid id":                       {path: "/nodes/a%20b/heartbeat", status: 400, code: "invalid_request", mentions: `"a b"`},
		"of an id with a slash":                  {path: "/nodes/a%2Fb/heartbeat", status: 400, code: "invalid_request", mentions: `"a/b"`},
		"of an id with a percent sign":           {path: "/nodes/%256c/heartbeat", status: 400, code: "invalid_request", mentions: `"%6c"`},
		"of an id that is not UTF-8":             {path: "/nodes/%ff/heartbeat", status: 400, code: "invalid_request", mentions: `\xff`},
		"with an If-Match header":                {path: "/nodes/l/heartbeat", header: []string{`If-Match: "4"`}, status: 400, code: "invalid_request", mentions: "If-Match"},
		"with an If-None-Match header":           {path: "/nodes/l/heartbeat", header: []string{`If-None-Match: *`}, status: 400, code: "invalid_request", mentions: "If-None-Match"},
		"with a body that is too large":          {path: "/nodes/l/heartbeat", body: huge, status: 413, code: "body_too_large", mentions: "1048576"},
		"with a parameter":                       {path: "/nodes/l/heartbeat?ttl=5", status: 400, code: "invalid_request", mentions: `"ttl"`},
		"with a longer path":                     {path: "/nodes/l/heartbeat/", status: 404, code: "not_found", mentions: "/nodes/l/heartbeat/"},
		"of an unknown node called expire":       {path: "/nodes/expire/heartbeat", status: 404, code: "node_not_found", mentions: `"expire"`},
		"of an unknown node called heartbeat":    {path: "/nodes/heartbeat/heartbeat", status: 404, code: "node_not_found", mentions: `"heartbeat"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			s.do(t, "PUT", "/nodes/l", putLeased)
			got := s.do(t, "POST", test.path, test.body, test.header...)
			if got.status != test.status {
				t.Fatalf("answer = %d %s, want %d", got.status, got.body, test.status)
			}
			if test.status == 200 {
				if got.body != test.want || got.header.Get("ETag") != `"4"` || got.header.Get("Nodesmetadata-Revision") != "4" {
					t.Errorf("answer = %v %s, want %s at revision 4", got.header, got.body, test.want)
				}
				return
			}
			code, detail := got.problem(t)
			if code != test.code || !strings.Contains(detail, test.mentions) {
				t.Errorf("code = %s, detail = %s, want %s mentioning %s", code, detail, test.code, test.mentions)
			}
			if known := got.header.Get("Nodesmetadata-Revision") != ""; known != (test.status == 404 && code == "node_not_found" || test.status == 409) {
				t.Errorf("Nodesmetadata-Revision = %q for %d %s, want one only if the registry decided", got.header.Get("Nodesmetadata-Revision"), got.status, code)
			}
		})
	}
}

// expire makes the nodes expire at their current revisions.
func (s *service) expire(t testing.TB, ids ...string) {
	t.Helper()
	state, _ := s.instance.State()
	var cmd domain.Expire
	for _, id := range ids {
		node, known := state.View.Node(id)
		if !known {
			t.Fatalf("node %q does not exist", id)
		}
		cmd.Nodes = append(cmd.Nodes, domain.NodeAt{ID: id, Revision: node.Revision})
	}
	if changes, err := s.instance.Propose(t.Context(), cmd); err != nil || len(changes) != len(ids) {
		t.Fatalf("expired nodes = %d of %v: %v", len(changes), ids, err)
	}
}

func TestAHeartbeatBringsANodeBack(t *testing.T) {
	for _, state := range []string{"active", "draining"} {
		t.Run(state, func(t *testing.T) {
			s := start(t)
			s.do(t, "PUT", "/nodes/l", `{"address":"h:1","state":"`+state+`","ttlSeconds":3600,"onExpiry":"down"}`)
			s.expire(t, "l")
			events := s.stream(t, "/nodes/sse?since=2")
			node := func(state string, revision int) string {
				return fmt.Sprintf(`{"id":"l","address":"h:1","pool":"default","weight":100,"state":"%s","ttlSeconds":3600,"onExpiry":"down","slot":0,"createdRevision":1,"revision":%d}`, state, revision)
			}
			if got := s.do(t, "GET", "/nodes/l", ""); got.body != node("down", 2) {
				t.Errorf("expired node = %s, want %s", got.body, node("down", 2))
			}
			for range 2 { // the second heartbeat changes nothing
				got := s.do(t, "POST", "/nodes/l/heartbeat", "")
				if got.status != 200 || got.body != node(state, 3) || got.header.Get("ETag") != `"3"` || got.header.Get("Nodesmetadata-Revision") != "3" {
					t.Errorf("answer = %d %v %s, want 200 %s at revision 3", got.status, got.header, got.body, node(state, 3))
				}
			}
			want := "retry: 1000\nevent: updated\nid: 3\ndata: {\"revision\":3,\"type\":\"updated\",\"node\":" + node(state, 3) +
				",\"previous\":" + node("down", 2) + ",\"reason\":\"request\"}\n\n"
			if got := events.event(t); got.raw != want {
				t.Errorf("event = %q\nwant    %q", got.raw, want)
			}
		})
	}
	t.Run("a client set the state down", func(t *testing.T) {
		s := start(t)
		put := s.do(t, "PUT", "/nodes/l", `{"address":"h:1","state":"down","ttlSeconds":3600,"onExpiry":"down"}`)
		if got := s.do(t, "POST", "/nodes/l/heartbeat", ""); got.status != 200 || got.body != put.body {
			t.Errorf("answer = %d %s, want 200 with the unchanged node %s", got.status, got.body, put.body)
		}
	})
}

func TestTimesToLive(t *testing.T) {
	tests := map[string]struct {
		fields string
		status int
		shown  string // part of the stored node
		fault  string
	}{
		"no time to live":                        {fields: ``, status: 201, shown: `"state":"active","slot":0`},
		"the shortest time to live":              {fields: `,"ttlSeconds":1`, status: 201, shown: `"state":"active","ttlSeconds":1,"onExpiry":"remove","slot":0`},
		"the longest time to live":               {fields: `,"ttlSeconds":86400,"onExpiry":"down"`, status: 201, shown: `"ttlSeconds":86400,"onExpiry":"down","slot":0`},
		"a time to live with the default expiry": {fields: `,"ttlSeconds":5,"onExpiry":"remove"`, status: 201, shown: `"ttlSeconds":5,"onExpiry":"remove","slot":0`},
		"only an expiry":                         {fields: `,"onExpiry":"down"`, status: 201, shown: `"state":"active","onExpiry":"down","slot":0`},
		"only the default expiry":                {fields: `,"onExpiry":"remove"`, status: 201, shown: `"state":"active","slot":0`},
		"a time to live of zero":                 {fields: `,"ttlSeconds":0`, status: 400, fault: "ttlSeconds"},
		"a negative time to live":                {fields: `,"ttlSeconds":-1`, status: 400, fault: "ttlSeconds"},
		"a time to live that is too long":        {fields: `,"ttlSeconds":86401`, status: 400, fault: "ttlSeconds"},
		"a fractional time to live":              {fields: `,"ttlSeconds":1.5`, status: 400, fault: `"ttlSeconds" must be an integer`},
		"a string for the time to live":          {fields: `,"ttlSeconds":"30s"`, status: 400, fault: `"ttlSeconds" must be an integer`},
		"null for the time to live":              {fields: `,"ttlSeconds":null`, status: 400, fault: `"ttlSeconds" must not be null`},
		"an unknown expiry":                      {fields: `,"ttlSeconds":5,"onExpiry":"drain"`, status: 400, fault: "onExpiry"},
		"an empty expiry":                        {fields: `,"onExpiry":""`, status: 400, fault: "onExpiry"},
		"null for the expiry":                    {fields: `,"onExpiry":null`, status: 400, fault: `"onExpiry" must not be null`},
		"both invalid":                           {fields: `,"ttlSeconds":0,"onExpiry":"x"`, status: 400, fault: "ttlSeconds"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			got := s.do(t, "PUT", "/nodes/l", `{"address":"h:1"`+test.fields+`}`)
			if got.status != test.status || !strings.Contains(got.body, test.shown) {
				t.Fatalf("answer = %d %s, want %d with %s", got.status, got.body, test.status, test.shown)
			}
			if test.status == 400 {
				if _, detail := got.problem(t); !strings.Contains(detail, test.fault) {
					t.Errorf("the detail does not mention %s: %s", test.fault, detail)
				}
				return
			}
			if again := s.do(t, "PUT", "/nodes", got.body); again.status != 200 || again.body != got.body {
				t.Errorf("answer to the node that was sent back = %d %s, want 200 %s", again.status, again.body, got.body)
			}
		})
	}
}

func TestANodeMayBeCalledExpire(t *testing.T) {
	s := start(t)
	const node = `{"id":"expire","address":"h:1","pool":"default","weight":100,"state":"active","ttlSeconds":3600,"onExpiry":"remove","slot":0,"createdRevision":1,"revision":1}`
	for _, call := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string
	}{
		{method: "GET", path: "/nodes/expire", status: 404},
		{method: "PUT", path: "/nodes/expire", body: `{"address":"h:1","ttlSeconds":3600}`, header: []string{"If-None-Match: *"}, status: 201, want: node},
		{method: "GET", path: "/nodes/expire", status: 200, want: node},
		{method: "GET", path: "/nodes/%65xpire", status: 200, want: node},
		{method: "HEAD", path: "/nodes/expire", status: 200},
		{method: "GET", path: "/nodes/expire", header: []string{`If-None-Match: "1"`}, status: 304},
		{method: "GET", path: "/nodes/expire?consistency=stale&min_revision=1&wait=1s", status: 200, want: node},
		{method: "PUT", path: "/nodes", body: node, status: 200, want: node},
		{method: "PUT", path: "/nodes/expire", body: `{"id":"other","address":"h:1"}`, status: 400},
		{method: "POST", path: "/nodes/expire/heartbeat", status: 200, want: node},
		{method: "POST", path: "/nodes/expire?pool=default", status: 200, want: `{"revision":1,"expired":[]}`},
		{method: "POST", path: "/nodes/expire", status: 400},
		{method: "DELETE", path: "/nodes/expire?pool=default", status: 400},
		{method: "DELETE", path: "/nodes/expire", header: []string{`If-Match: "2"`}, status: 412},
		{method: "DELETE", path: "/nodes/expire", header: []string{`If-Match: "1"`}, status: 200, want: node},
		{method: "DELETE", path: "/nodes/expire", status: 404},
	} {
		got := s.do(t, call.method, call.path, call.body, call.header...)
		if got.status != call.status || call.want != "" && got.body != call.want {
			t.Errorf("%s %s: answer = %d %s, want %d %s", call.method, call.path, got.status, got.body, call.status, call.want)
		}
		if call.status == 404 && !strings.Contains(got.body, `\"expire\"`) {
			t.Errorf("%s %s: answer = %s, want it to name the node", call.method, call.path, got.body)
		}
	}
}

func TestExpiryOnDemandTakesNoConditions(t *testing.T) {
	s := start(t)
	for _, header := range []string{`If-Match: "1"`, `If-Match: *`, `If-None-Match: *`} {
		got := s.do(t, "POST", "/nodes/expire?pool=p", "", header)
		name, _, _ := strings.Cut(header, ":")
		if code, detail := got.problem(t); got.status != 400 || code != "invalid_request" || !strings.Contains(detail, name) {
			t.Errorf("%s: answer = %d %s, detail %s, want 400 invalid_request naming %s", header, got.status, code, detail, name)
		}
	}
}

// Three of three nodes are too many to expire at once, so they are held back until an operator
// lets them expire.
func TestHeldNodesExpireOnDemand(t *testing.T) {
	s := start(t)
	// One batch, so that no node expires before the others are there.
	if got := s.do(t, "POST", "/nodes/batch", changes(
		`{"put":{"id":"a","address":"h:1","pool":"p","ttlSeconds":1}}`,
		`{"put":{"id":"b","address":"h:2","pool":"p","ttlSeconds":1,"onExpiry":"down"}}`,
		`{"put":{"id":"c","address":"h:3","pool":"p","ttlSeconds":1}}`,
		`{"put":{"id":"d","address":"h:4","pool":"p"}}`,
		`{"put":{"id":"e","address":"h:5","pool":"other","ttlSeconds":3600}}`)); got.status != 200 {
		t.Fatalf("batch: answer = %d %s, want 200", got.status, got.body)
	}
	const held = `,"expiryHeld":[{"pool":"p","overdue":3,"leased":3}]}`
	eventually(t, "the pool is held", func() bool {
		got := s.do(t, "GET", "/readyz", "")
		if got.status != 200 {
			t.Fatalf("readyz = %d %s, want 200", got.status, got.body)
		}
		return strings.HasSuffix(got.body, held)
	})
	if got := s.do(t, "POST", "/nodes/expire?pool=other", ""); got.status != 200 || got.body != `{"revision":5,"expired":[]}` {
		t.Errorf("expiry in another pool: answer = %d %s, want 200 and no node", got.status, got.body)
	}
	events := s.stream(t, "/nodes/sse?since=5")
	got := s.do(t, "POST", "/nodes/expire?pool=p", "")
	if got.status != 200 || got.header.Get("Nodesmetadata-Revision") != "8" || !strings.HasPrefix(got.body, `{"revision":8,"expired":[`) {
		t.Errorf("answer = %d %v %s, want 200 and nodes expired up to revision 8", got.status, got.header, got.body)
	}
	kinds := map[string]string{"a": "removed", "b": "updated", "c": "removed"}
	for revision := 6; revision <= 8; revision++ {
		event := events.event(t)
		var id string
		for candidate, kind := range kinds {
			if strings.Contains(event.data, `"node":{"id":"`+candidate+`"`) && event.kind == kind {
				id = candidate
			}
		}
		if event.id != fmt.Sprint(revision) || id == "" || !strings.HasSuffix(event.data, `,"reason":"expired"}`) || !strings.Contains(got.body, `"`+id+`"`) {
			t.Errorf("event = %q, want the expiry at revision %d of a node in %s", event.raw, revision, got.body)
		}
		delete(kinds, id)
	}
	eventually(t, "no node is held back any more", func() bool { return len(s.leases.Held()) == 0 })
	if got := s.do(t, "GET", "/readyz", ""); strings.Contains(got.body, "expiryHeld") {
		t.Errorf("readyz after the expiry = %s, want no expiryHeld", got.body)
	}
	if got := s.do(t, "POST", "/nodes/expire?pool=p", ""); got.status != 200 || got.body != `{"revision":8,"expired":[]}` {
		t.Errorf("second expiry: answer = %d %s, want 200 and no node", got.status, got.body)
	}
}
