package httpapi_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// cutOff is the last comment of a stream whose instance has lost touch.
const cutOff = "this instance has not heard from a leader for longer than the election timeout: connect to another one"

// loseTouch makes the instance lose its leader and the contact with the cluster.
func (s *service) loseTouch() {
	s.instance.Change(func(state *ports.LocalState) {
		state.Leading, state.InTouch, state.LeaderID, state.LeaderRaftAddress = false, false, "", ""
	})
}

// regain makes the instance follow n1 again.
func (s *service) regain() {
	s.instance.Change(func(state *ports.LocalState) {
		state.InTouch, state.LeaderID, state.LeaderRaftAddress = true, "n1", "127.0.0.1:7000"
	})
}

func TestAFollowerAnswersReadsOnRequestAsItsLeader(t *testing.T) {
	s := start(t)
	seed(t, s)
	follower := s.startFollower(t)
	for _, path := range []string{
		"/nodes?redirect=false", "/nodes/a?redirect=false", "/nodes/x?redirect=false", "/nodes?redirect=false&pool=x",
		"/nodes?redirect=false&since=2", "/nodes?redirect=false&since=3&wait=0s", "/nodes/b?redirect=false&min_revision=3",
		"/nodes?redirect=false&min_revision=4&wait=0s", "/nodes?redirect=false&consistency=linearizable", "/raft/metadata?redirect=false",
	} {
		for _, call := range []struct {
			method string
			header []string
		}{{"GET", nil}, {"HEAD", nil}, {"GET", []string{`If-None-Match: "3"`}}} {
			want, got := s.do(t, call.method, path, "", call.header...), follower.do(t, call.method, path, "", call.header...)
			if got.status != want.status || got.body != want.body || got.status == 307 {
				t.Errorf("%s %s: answer = %d %s, want that of the leader, %d %s", call.method, path, got.status, got.body, want.status, want.body)
			}
			for _, name := range []string{"ETag", "Nodesmetadata-Revision", "Content-Type", "Content-Length", "Nodesmetadata-Leader-Contact"} {
				if got, want := got.header.Get(name), want.header.Get(name); got != want {
					t.Errorf("%s %s: %s = %q, want that of the leader, %q", call.method, path, name, got, want)
				}
			}
			if contact, has := got.header["Nodesmetadata-Leader-Contact"]; has {
				t.Errorf("%s %s: a linearizable answer has Nodesmetadata-Leader-Contact: %s", call.method, path, contact)
			}
		}
	}
	// A write through the leader is read from the follower.
	s.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1"}`)
	if got := follower.do(t, "GET", "/nodes/c?redirect=false", ""); got.body != nodeC {
		t.Errorf("answer of the follower = %d %s, want the node that the leader wrote", got.status, got.body)
	}
	if got := follower.metric(t, "nodesmetadata_http_redirects_total"); got != 0 {
		t.Errorf("counted redirects = %v, want none", got)
	}
}

func TestAFollowerNamesTheLeaderForWritesOnRequest(t *testing.T) {
	s := start(t)
	seed(t, s)
	follower := s.startFollower(t)
	for _, call := range parameterCalls {
		if call.method == "GET" {
			continue
		}
		got := follower.do(t, call.method, call.path+"?redirect=false", call.body)
		code, detail := got.problem(t)
		var problem struct{ Leader string }
		if err := json.Unmarshal([]byte(got.body), &problem); err != nil {
			t.Fatal(err)
		}
		if got.status != 503 || code != "not_leader" || problem.Leader != "n1.test:8080" || !strings.Contains(detail, "n1.test:8080") {
			t.Errorf("%s %s: answer = %d %s, want 503 not_leader naming the leader", call.method, call.path, got.status, got.body)
		}
		if _, sent := got.header["Location"]; sent || got.header.Get("Retry-After") != "1" {
			t.Errorf("%s %s: headers = %v, want Retry-After: 1 and no Location", call.method, call.path, got.header)
		}
		// The leader itself accepts the request.
		if got := s.do(t, call.method, call.path+"?redirect=false", call.body); got.status != call.status {
			t.Errorf("%s %s of the leader: answer = %d %s, want %d", call.method, call.path, got.status, got.body, call.status)
		}
	}
	got := follower.do(t, "POST", "/nodes/expire?pool=p&redirect=false", "")
	if code, _ := got.problem(t); got.status != 503 || code != "not_leader" {
		t.Errorf("answer = %d %s, want 503 not_leader", got.status, got.body)
	}
	if got := follower.do(t, "PUT", "/nodes/c?redirect=true", `{}`); got.status != 400 {
		t.Errorf("invalid request: answer = %d %s, want 400", got.status, got.body)
	}
	if got := follower.metric(t, "nodesmetadata_http_redirects_total"); got != 0 {
		t.Errorf("counted redirects = %v, want none", got)
	}
}

func TestALeaderThatIsRemovedNamesItsSuccessor(t *testing.T) {
	s := start(t)
	s.addSecond(t)
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8080"})
	got := s.do(t, "DELETE", "/raft/node/n1?redirect=false", "")
	if code, _ := got.problem(t); got.status != 503 || code != "not_leader" || !strings.Contains(got.body, `"leader":"n2.test:8080"`) {
		t.Errorf("answer = %d %s, want 503 not_leader naming n2", got.status, got.body)
	}
}

func TestNoRedirectIsSentWithRedirectFalse(t *testing.T) {
	tests := map[string]struct {
		change func(*service)
		reads  int // status of the list
	}{
		"nobody leads":                {func(follower *service) { follower.loseLeader() }, 503},
		"the instance has lost touch": {func(follower *service) { follower.loseTouch() }, 503},
		"the leader does not answer":  {func(follower *service) { follower.peers.Silence("127.0.0.1:7000") }, 200},
		"the leader claims the address of this instance": {func(follower *service) {
			follower.peers.Answer("127.0.0.1:7000", ports.Identity{RaftID: "n1", ApplicationAddress: "n2.test:8080"})
		}, 200},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			follower := s.startFollower(t)
			test.change(follower)
			for _, call := range parameterCalls {
				if call.stream {
					continue
				}
				got := follower.do(t, call.method, call.path+"?redirect=false", call.body)
				if call.path == "/nodes" && call.method == "GET" && got.status != test.reads {
					t.Errorf("list: answer = %d %s, want %d", got.status, got.body, test.reads)
				}
				if _, sent := got.header["Location"]; sent || got.status == 307 || call.method != "GET" && got.status != 503 {
					t.Errorf("%s %s: answer = %d %s, want no redirect", call.method, call.path, got.status, got.body)
				}
				if got.status != 503 {
					continue
				}
				if code, _ := got.problem(t); code != "no_leader" || strings.Contains(got.body, `"leader":`) || got.header.Get("Retry-After") != "1" {
					t.Errorf("%s %s: answer = %v %s, want no_leader with Retry-After: 1", call.method, call.path, got.header, got.body)
				}
			}
		})
	}
}

func TestEveryInstanceAnswersStaleReads(t *testing.T) {
	asItIs := func(*service) {}
	tests := map[string]struct {
		change  func(*service)
		contact time.Duration // with the leader; negative: never

		path   string
		header []string
		status int
		body   string // if the status is below 400
		code   string // of the problem otherwise
		said   string // Nodesmetadata-Leader-Contact
	}{
		"the list":                                    {change: asItIs, path: "/nodes?consistency=stale", status: 200, body: seededList, said: "0"},
		"the list that the client has":                {change: asItIs, path: "/nodes?consistency=stale", header: []string{`If-None-Match: "3"`}, status: 304, said: "0"},
		"a filtered list":                             {change: asItIs, path: "/nodes?consistency=stale&pool=x", status: 200, body: `{}`, said: "0"},
		"a node":                                      {change: asItIs, path: "/nodes/a?consistency=stale", status: 200, body: nodeA, said: "0"},
		"an unknown node":                             {change: asItIs, path: "/nodes/x?consistency=stale", status: 404, code: "node_not_found", said: "0"},
		"the list with redirect=true":                 {change: asItIs, path: "/nodes?consistency=stale&redirect=true", status: 200, body: seededList, said: "0"},
		"the list with redirect=false":                {change: asItIs, path: "/nodes?consistency=stale&redirect=false", status: 200, body: seededList, said: "0"},
		"the list without a leader":                   {change: (*service).loseTouch, contact: 1234567 * time.Microsecond, path: "/nodes?consistency=stale", status: 200, body: seededList, said: "1234"},
		"the list without any contact":                {change: (*service).loseTouch, contact: -1, path: "/nodes?consistency=stale", status: 200, body: seededList},
		"the list at the bound":                       {change: asItIs, contact: 500 * time.Millisecond, path: "/nodes?consistency=stale&max_stale=500ms", status: 200, body: seededList, said: "500"},
		"the list beyond the bound":                   {change: asItIs, contact: 501 * time.Millisecond, path: "/nodes?consistency=stale&max_stale=500ms", status: 503, code: "too_stale", said: "501"},
		"a node beyond the bound":                     {change: asItIs, contact: time.Hour, path: "/nodes/a?consistency=stale&max_stale=1m", status: 503, code: "too_stale", said: "3600000"},
		"a node with a bound of zero":                 {change: asItIs, contact: 1, path: "/nodes/a?consistency=stale&max_stale=0", status: 503, code: "too_stale", said: "0"},
		"a node with a bound and without any contact": {change: asItIs, contact: -1, path: "/nodes/a?consistency=stale&max_stale=24h", status: 503, code: "too_stale"},
		"a revision that is not reached":              {change: asItIs, contact: 7 * time.Millisecond, path: "/nodes?consistency=stale&min_revision=4&wait=0s", status: 503, code: "revision_not_reached", said: "7"},
		"a contact too long ago after a wait":         {change: asItIs, contact: time.Second, path: "/nodes?consistency=stale&since=3&wait=1ms&max_stale=1ms", status: 503, code: "too_stale", said: "1000"},
		"the list before the instance has caught up": {change: func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.CaughtUp = false }) },
			path: "/nodes?consistency=stale", status: 503, code: "not_caught_up", said: "0"},
		"a node before the instance has caught up": {change: func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.CaughtUp = false }) },
			path: "/nodes/a?consistency=stale", status: 503, code: "not_caught_up", said: "0"},
		"a closing instance": {change: func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.Closed = true }) },
			path: "/nodes?consistency=stale", status: 503, code: "shutting_down", said: "0"},
		"an invalid parameter":        {change: asItIs, path: "/nodes?consistency=stale&pool=-", status: 400, code: "invalid_request", said: "0"},
		"an endpoint of the instance": {change: asItIs, path: "/livez?consistency=stale", status: 200, body: `{"live":true}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			follower := s.startFollower(t)
			test.change(follower)
			follower.instance.Touch(test.contact)
			if strings.HasPrefix(test.path, "/livez") {
				follower.undescribed()
			}
			got := follower.do(t, "GET", test.path, "", test.header...)
			if got.status != test.status || test.code == "" && got.body != test.body {
				t.Errorf("answer = %d %s, want %d %s", got.status, got.body, test.status, test.body)
			}
			if said := got.header.Get("Nodesmetadata-Leader-Contact"); said != test.said {
				t.Errorf("Nodesmetadata-Leader-Contact = %q, want %q", said, test.said)
			}
			if test.code != "" {
				if code, _ := got.problem(t); code != test.code {
					t.Errorf("problem = %s, want the code %s", got.body, test.code)
				}
			} else if revision := got.header.Get("Nodesmetadata-Revision"); test.said != "" && revision != "3" {
				t.Errorf("Nodesmetadata-Revision = %q, want 3", revision)
			}
			if retry := got.header.Get("Retry-After"); (retry == "1") != (test.status == 503) {
				t.Errorf("Retry-After = %q for status %d, want 1 only with 503", retry, got.status)
			}
		})
	}
}

func TestALeaderAnswersStaleReadsToo(t *testing.T) {
	s := start(t)
	seed(t, s)
	s.instance.Touch(42 * time.Millisecond)
	for _, path := range []string{"/nodes?consistency=stale", "/nodes/a?consistency=stale&max_stale=1s", "/raft/metadata?consistency=stale"} {
		got := s.do(t, "GET", path, "")
		if got.status != 200 || got.header.Get("Nodesmetadata-Leader-Contact") != "42" {
			t.Errorf("%s: answer = %d %v, want 200 with a leader contact of 42 ms", path, got.status, got.header)
		}
	}
	if got := s.do(t, "PUT", "/nodes/a?consistency=stale", nodeA); got.status != 400 || got.header.Get("Nodesmetadata-Leader-Contact") != "" {
		t.Errorf("stale write: answer = %d %v, want 400 without a leader contact", got.status, got.header)
	}
}

func TestTheClusterIsDescribedWithoutALeader(t *testing.T) {
	s := start(t)
	follower := s.startFollower(t)
	follower.loseTouch()
	follower.instance.Change(func(state *ports.LocalState) { state.CaughtUp = false })
	follower.instance.Touch(2 * time.Second)
	got := follower.do(t, "GET", "/raft/metadata?consistency=stale", "")
	const want = `{"nodesMetadata":{` +
		`"n1":{"nodeID":"n1","raftAddress":"127.0.0.1:7000","applicationAddress":"n1.test:8080","suffrage":"voter","reachable":true,"version":"v1"},` +
		`"n2":{"nodeID":"n2","raftAddress":"127.0.0.1:7002","applicationAddress":"n2.test:8080","suffrage":"voter","reachable":true,"version":"v1"}},` +
		`"leaderNodeID":"","term":1,"clusterID":"cluster-of-n1"}`
	if got.status != 200 || got.body != want || got.header.Get("Nodesmetadata-Leader-Contact") != "2000" {
		t.Errorf("answer = %d %v %s, want 200 with a leader contact of 2000 ms", got.status, got.header, got.body)
	}
}

// Without a leader the event does not say whether the leader is reachable.
func TestAClusterStreamHereReportsTheLossOfTheLeader(t *testing.T) {
	s := start(t)
	events := s.stream(t, "/raft/metadata/sse?redirect=false")
	events.event(t) // the snapshot
	s.loseLeader()
	want := "event: leader_changed\ndata: {\"type\":\"leader_changed\",\"nodeID\":\"\",\"term\":1}\n\n"
	if got := events.event(t).raw; got != want {
		t.Errorf("event = %q, want %q", got, want)
	}
}

func TestStreamsOfAFollowerSurviveAChangeOfLeaders(t *testing.T) {
	s := start(t)
	seed(t, s)
	follower := s.startFollower(t)
	streams := map[string]*reader{}
	for name, on := range map[string]*service{"the old leader": s, "the new leader": follower} {
		for _, query := range []string{"redirect=false", "consistency=stale", "consistency=stale&redirect=false", "redirect=false&pool=default"} {
			streams["of "+name+" with "+query] = on.stream(t, "/nodes/sse?"+query)
		}
	}
	clusters := []*reader{s.stream(t, "/raft/metadata/sse?redirect=false"), follower.stream(t, "/raft/metadata/sse?redirect=false"),
		s.stream(t, "/raft/metadata/sse?consistency=stale"), follower.stream(t, "/raft/metadata/sse?consistency=stale")}
	bound := s.stream(t, "/nodes/sse")
	snapshot := bound.event(t).raw
	for name, events := range streams {
		if got := events.event(t).raw; got != snapshot {
			t.Errorf("%s: snapshot = %q, want that of the leader, %q", name, got, snapshot)
		}
	}
	for _, events := range clusters {
		if got := events.event(t); got.kind != "snapshot" || !strings.Contains(got.data, `"leaderNodeID":"n1","term":1`) {
			t.Errorf("event = %q, want a snapshot with n1 leading in term 1", got.raw)
		}
	}
	if err := s.instance.HandOver(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if got := bound.farewell(t); got != "this instance does not lead: connect again" {
		t.Errorf("last comment of the stream without redirect=false = %q, want that the instance does not lead", got)
	}
	if got := follower.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1"}`); got.status != 201 {
		t.Fatalf("answer = %d %s, want 201", got.status, got.body)
	}
	want := "event: added\nid: 4\ndata: {\"revision\":4,\"type\":\"added\",\"node\":" + nodeC + ",\"reason\":\"request\"}\n\n"
	for name, events := range streams {
		if got := events.event(t).raw; got != want {
			t.Errorf("%s: event = %q, want that of the leader, %q", name, got, want)
		}
	}
	for _, events := range clusters {
		if got := events.event(t); got.kind != "leader_changed" || !strings.Contains(got.data, `"nodeID":"n2"`) {
			t.Errorf("event = %q, want leader_changed to n2", got.raw)
		}
	}
	// A while without a leader does not end the streams either.
	s.loseLeader()
	s.regain()
	weight := 9
	follower.register(t, domain.NodeSpec{ID: "c", Address: "10.0.0.3:1", Weight: &weight})
	for name, events := range streams {
		if got := events.event(t); got.id != "5" {
			t.Errorf("%s: event = %q, want id 5", name, got.raw)
		}
	}
	s.loseTouch()
	follower.loseTouch()
	for name, events := range streams {
		if got := events.farewell(t); got != cutOff {
			t.Errorf("%s: last comment = %q, want %q", name, got, cutOff)
		}
	}
	for _, events := range clusters {
		if got := events.farewell(t); got != cutOff {
			t.Errorf("last comment = %q, want %q", got, cutOff)
		}
	}
}

func TestAStreamOfAFollowerHasTheBytesOfItsLeader(t *testing.T) {
	s := start(t)
	seed(t, s)
	follower := s.startFollower(t)
	var streams []*reader
	for _, query := range []string{"since=0", "since=0&redirect=true", "since=0&redirect=false"} {
		streams = append(streams, s.stream(t, "/nodes/sse?"+query))
	}
	for _, query := range []string{"since=0&redirect=false", "since=0&consistency=stale"} {
		streams = append(streams, follower.stream(t, "/nodes/sse?"+query))
	}
	for _, events := range streams {
		if got := events.header.Get("Nodesmetadata-Revision"); got != "3" || events.header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("header = %v, want an event stream at revision 3", events.header)
		}
	}
	s.do(t, "PUT", "/nodes/a", `{"address":"10.0.0.1:1","ttlSeconds":3600}`)
	s.do(t, "POST", "/nodes/batch", changes(`{"remove":"b"}`, `{"put":{"id":"c","address":"10.0.0.2:1"}}`))
	s.expire(t, "a")
	for revision := 1; revision <= 7; revision++ {
		want := streams[0].event(t)
		if want.id != fmt.Sprint(revision) {
			t.Fatalf("event = %q, want id %d", want.raw, revision)
		}
		for i, events := range streams[1:] {
			if got := events.event(t); got.raw != want.raw {
				t.Errorf("event of stream %d = %q\nwant that of the leader, %q", i+1, got.raw, want.raw)
			}
		}
	}
}

func TestStreamsOfAFollowerWaitForALeader(t *testing.T) {
	for _, path := range []string{"/nodes/sse?redirect=false", "/nodes/sse?redirect=false&since=3", "/raft/metadata/sse?redirect=false"} {
		t.Run(path, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			follower := s.startFollower(t)
			follower.loseTouch()
			if got := follower.do(t, "HEAD", path, ""); got.status != 200 || got.header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("HEAD: answer = %d %v, want 200 with an event stream", got.status, got.header)
			}
			events := follower.stream(t, path)
			if got, more := events.next(t); events.status != 200 || !more || got.raw != ": no leader\n\n" {
				t.Fatalf("stream = %d %q, want 200 and the comment no leader", events.status, got.raw)
			}
			if contact, has := events.header["Nodesmetadata-Leader-Contact"]; has {
				t.Errorf("a stream without a leader has Nodesmetadata-Leader-Contact: %q", contact)
			}
			follower.regain()
			s.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1"}`)
			if got := events.event(t); got.retry != "1000" || got.kind != "snapshot" && got.id != "4" {
				t.Errorf("first event = %q, want a snapshot or id 4, with retry: 1000", got.raw)
			}
			follower.loseTouch()
			if got := events.farewell(t); got != cutOff {
				t.Errorf("last comment = %q, want %q", got, cutOff)
			}
		})
	}
}

func TestStaleStreamsNeedNoLeader(t *testing.T) {
	for _, path := range []string{"/nodes/sse?consistency=stale", "/nodes/sse?consistency=stale&since=1", "/nodes/sse?consistency=stale&since=99",
		"/nodes/sse?consistency=stale&redirect=true&zone=", "/raft/metadata/sse?consistency=stale"} {
		t.Run(path, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			follower := s.startFollower(t)
			follower.loseTouch()
			follower.instance.Touch(1500 * time.Millisecond)
			events := follower.stream(t, path)
			if got := events.header.Get("Nodesmetadata-Leader-Contact"); got != "1500" {
				t.Errorf("Nodesmetadata-Leader-Contact = %q, want 1500", got)
			}
			if got := events.header.Get("Nodesmetadata-Revision"); strings.HasPrefix(path, "/nodes") && got != "3" {
				t.Errorf("Nodesmetadata-Revision = %q, want 3", got)
			}
			// The state of the instance is sent before the stream ends.
			first, more := events.next(t)
			if !more || first.data == "" {
				t.Fatalf("first event = %q, want one with data", first.raw)
			}
			if got := events.farewell(t); got != cutOff {
				t.Errorf("last comment = %q, want %q", got, cutOff)
			}
		})
	}
}

// If the stream of a client that is up to date ended at once, the client would only reconnect
// again and again.
func TestAStaleStreamWithoutChangesWaitsForALeader(t *testing.T) {
	s := start(t)
	seed(t, s)
	follower := s.startFollower(t)
	follower.loseTouch()
	events := follower.stream(t, "/nodes/sse?consistency=stale&since=3")
	if got, more := events.next(t); !more || got.raw != ": no leader\n\n" {
		t.Fatalf("event = %q, want the comment no leader", got.raw)
	}
	follower.regain()
	s.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1"}`)
	if got := events.event(t); got.id != "4" || got.retry != "1000" {
		t.Errorf("event = %q, want id 4 with retry: 1000", got.raw)
	}
}

func TestAStaleStreamWaitsUntilItsInstanceHasCaughtUp(t *testing.T) {
	s := start(t)
	seed(t, s)
	follower := s.startFollower(t)
	follower.instance.Change(func(state *ports.LocalState) { state.CaughtUp = false })
	events := follower.stream(t, "/nodes/sse?consistency=stale")
	if got, more := events.next(t); events.status != 200 || !more || got.comment == "" {
		t.Fatalf("stream = %d %q, want 200 and a comment", events.status, got.raw)
	}
	follower.instance.Change(func(state *ports.LocalState) { state.CaughtUp = true })
	if got := events.event(t); got.kind != "snapshot" || got.id != "3" {
		t.Errorf("event = %q, want a snapshot with id 3", got.raw)
	}
}
