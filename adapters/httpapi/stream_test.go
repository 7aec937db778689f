package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestAStreamBeginsWithTheSnapshotAndGoesOnWithChanges(t *testing.T) {
	s := start(t)
	seed(t, s)
	events := s.stream(t, "/nodes/sse")
	for header, want := range map[string]string{
		"Content-Type":           "text/event-stream",
		"Cache-Control":          "no-cache, no-transform",
		"X-Accel-Buffering":      "no",
		"Nodesmetadata-Revision": "3",
	} {
		if got := events.header.Get(header); events.status != 200 || got != want {
			t.Errorf("%s = %q, want %q", header, got, want)
		}
	}
	want := "retry: 1000\nevent: snapshot\nid: 3\ndata: {\"revision\":3,\"part\":1,\"parts\":1,\"nodes\":{\"a\":" + nodeA + ",\"b\":" + nodeB + "}}\n\n"
	if got := events.event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
	s.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1"}`)
	want = "event: added\nid: 4\ndata: {\"revision\":4,\"type\":\"added\",\"node\":" + nodeC + ",\"reason\":\"request\"}\n\n"
	if got := events.event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
	s.do(t, "PUT", "/nodes/c", `{"address":"10.0.0.3:1"}`) // changes nothing, so there is no event
	s.do(t, "DELETE", "/nodes/c", "")
	want = "event: removed\nid: 5\ndata: {\"revision\":5,\"type\":\"removed\",\"node\":" + nodeC + ",\"previous\":" + nodeC + ",\"reason\":\"request\"}\n\n"
	if got := events.event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
	eventually(t, "three events are counted", func() bool {
		return s.metric(t, "nodesmetadata_http_stream_events_total", "nodes") == 3
	})
}

func TestAStreamOfAnEmptyRegistryBeginsWithASnapshotToo(t *testing.T) {
	s := start(t)
	want := "retry: 1000\nevent: snapshot\nid: 0\ndata: {\"revision\":0,\"part\":1,\"parts\":1,\"nodes\":{}}\n\n"
	if got := s.stream(t, "/nodes/sse").event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
}

func TestAStreamGoesOnWhereItsClientWas(t *testing.T) {
	tests := map[string]struct {
		path   string
		header []string
		first  string // id of the first event
		kind   string
	}{
		"it begins after the id of the header":             {path: "/nodes/sse", header: []string{"Last-Event-ID: 1"}, first: "2", kind: "added"},
		"it begins after the id of the parameter":          {path: "/nodes/sse?since=2", first: "3", kind: "updated"},
		"it begins with the first change":                  {path: "/nodes/sse?since=0", first: "1", kind: "added"},
		"the header wins over the parameter":               {path: "/nodes/sse?since=0", header: []string{"Last-Event-ID: 2"}, first: "3", kind: "updated"},
		"an empty header is no position":                   {path: "/nodes/sse", header: []string{"Last-Event-ID: "}, first: "3", kind: "snapshot"},
		"a position ahead of the registry gets a snapshot": {path: "/nodes/sse", header: []string{"Last-Event-ID: 99"}, first: "3", kind: "snapshot"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			seed(t, s)
			events := s.stream(t, test.path, test.header...)
			if got := events.header.Get("Nodesmetadata-Revision"); got != "3" {
				t.Errorf("Nodesmetadata-Revision = %q, want 3", got)
			}
			got := events.event(t)
			if got.id != test.first || got.kind != test.kind || got.retry != "1000" {
				t.Errorf("first event = %q, want %s with id %s and retry: 1000", got.raw, test.kind, test.first)
			}
		})
	}
}

func TestAClientThatIsUpToDateWaitsForTheNextChange(t *testing.T) {
	s := start(t)
	seed(t, s)
	events := s.stream(t, "/nodes/sse?since=3")
	if got := events.header.Get("Nodesmetadata-Revision"); got != "3" {
		t.Errorf("Nodesmetadata-Revision = %q, want 3", got)
	}
	s.do(t, "DELETE", "/nodes/a", "")
	if got := events.event(t); got.id != "4" || got.retry != "1000" {
		t.Errorf("first event = %q, want id 4 with retry: 1000", got.raw)
	}
}

func TestAMalformedPositionIsRefused(t *testing.T) {
	s := start(t)
	for _, position := range []string{"x", "-1", "+1", "01", "1.0", "0x1", "1_0", "1,2", "18446744073709551616", "%20"} {
		got := s.do(t, "GET", "/nodes/sse?since="+position, "")
		if code, _ := got.problem(t); got.status != 400 || code != "invalid_request" {
			t.Errorf("since=%s: answer = %d %s, want 400 invalid_request", position, got.status, code)
		}
		if position == "%20" {
			continue // a header of white space is an empty one
		}
		got = s.do(t, "GET", "/nodes/sse", "", "Last-Event-ID: "+position)
		if _, detail := got.problem(t); got.status != 400 || !strings.Contains(detail, "Last-Event-ID") {
			t.Errorf("Last-Event-ID %s: answer = %d %s, want 400 naming Last-Event-ID", position, got.status, detail)
		}
	}
	for _, second := range []string{"1", "2", ""} {
		got := s.do(t, "GET", "/nodes/sse", "", "Last-Event-ID: "+second, "Last-Event-ID: 1")
		if _, detail := got.problem(t); got.status != 400 || !strings.Contains(detail, "Last-Event-ID") {
			t.Errorf("Last-Event-ID %q and 1: answer = %d %s, want 400 naming Last-Event-ID", second, got.status, detail)
		}
	}
	for _, query := range []string{"since=", "since=1&since=1", "pools=x", "since=1&redirect=no", "since=1&wait=1s"} {
		if got := s.do(t, "GET", "/nodes/sse?"+query, ""); got.status != 400 {
			t.Errorf("%s: status = %d, want 400", query, got.status)
		}
	}
}

func TestALargeSnapshotComesInPartsOfWhichTheLastHasTheID(t *testing.T) {
	s := start(t)
	const nodes = 5000
	s.fill(t, nodes)
	// This is the largest node that there can be.
	labels := map[string]string{}
	for i := range domain.MaxLabels {
		labels[fmt.Sprintf("%0*d", domain.MaxIDBytes, i)] = strings.Repeat(`"`, domain.MaxLabelValueBytes)
	}
	s.register(t, domain.NodeSpec{ID: "big", Address: "big:1", Zone: strings.Repeat(`\`, domain.MaxZoneBytes), Labels: labels})
	events := s.stream(t, "/nodes/sse")
	seen := map[string]bool{}
	for part := 1; ; part++ {
		got := events.event(t)
		if len(got.raw) >= 48<<10 {
			t.Errorf("length of part %d = %d bytes, want less than 48 KiB", part, len(got.raw))
		}
		var data struct {
			Revision    uint64
			Part, Parts int
			Nodes       map[string]struct{ ID string }
		}
		if err := json.Unmarshal([]byte(got.data), &data); err != nil {
			t.Fatal(err)
		}
		if data.Revision != nodes+1 || data.Part != part || got.kind != "snapshot" || (got.retry != "") != (part == 1) {
			t.Fatalf("part %d = %.200q, want the next part of the snapshot, with retry on the first only", part, got.raw)
		}
		for id, node := range data.Nodes {
			if id != node.ID || seen[id] {
				t.Fatalf("node %q under the key %q, want its id, once", node.ID, id)
			}
			seen[id] = true
		}
		if last := part == data.Parts; (got.id == fmt.Sprint(nodes+1)) != last || !last && got.id != "" {
			t.Fatalf("part %d of %d has id %q, want the revision on the last part only", part, data.Parts, got.id)
		} else if last {
			break
		}
	}
	if len(seen) != nodes+1 {
		t.Errorf("nodes delivered = %d, want %d", len(seen), nodes+1)
	}
	s.do(t, "DELETE", "/nodes/big", "")
	if got := events.event(t); got.id != fmt.Sprint(nodes+2) || len(got.raw) >= 64<<10 {
		t.Errorf("event after the snapshot: id = %q with %d bytes, want %d with less than 64 KiB", got.id, len(got.raw), nodes+2)
	}
}

func TestAStreamIsDenseWhileWritersWrite(t *testing.T) {
	s := start(t)
	const writers, writes = 4, 100
	var streams []*reader
	for range 8 {
		streams = append(streams, s.stream(t, "/nodes/sse?since=0"))
	}
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for i := range writes {
				s.do(t, "PUT", fmt.Sprintf("/nodes/w%d", w), fmt.Sprintf(`{"address":"h%d:1","weight":%d}`, w, i))
			}
		})
	}
	for _, events := range streams {
		for revision := 1; revision <= writers*writes; revision++ {
			if got := events.event(t); got.id != fmt.Sprint(revision) {
				t.Fatalf("id of the event = %q, want %d", got.id, revision)
			}
		}
	}
	done.Wait()
}

func TestAQuietStreamIsKeptAlive(t *testing.T) {
	s := start(t, func(c *httpapi.Config) { c.KeepAlive = 30 * time.Millisecond })
	for _, path := range []string{"/nodes/sse", "/raft/metadata/sse"} {
		events := s.stream(t, path)
		events.event(t)
		for range 3 {
			if got, more := events.next(t); !more || got.raw != ": keep-alive\n\n" {
				t.Fatalf("%s: event = %v %q, want a keep-alive", path, more, got.raw)
			}
		}
	}
}

func TestAStreamWaitsForALeader(t *testing.T) {
	for _, path := range []string{"/nodes/sse", "/raft/metadata/sse"} {
		t.Run("this instance becomes the leader: "+path, func(t *testing.T) {
			s := start(t, func(c *httpapi.Config) { c.KeepAlive = 30 * time.Millisecond })
			s.loseLeader()
			events := s.stream(t, path)
			for range 3 {
				if got, more := events.next(t); !more || got.raw != ": no leader\n\n" {
					t.Fatalf("event = %v %q, want the comment no leader", more, got.raw)
				}
			}
			s.lead()
			if got := events.event(t); got.kind != "snapshot" || got.retry != "1000" {
				t.Errorf("event = %q, want a snapshot with retry: 1000", got.raw)
			}
		})
		t.Run("another instance becomes the leader: "+path, func(t *testing.T) {
			s := start(t)
			s.loseLeader()
			events := s.stream(t, path)
			if got, _ := events.next(t); got.comment != "no leader" {
				t.Fatalf("event = %q, want the comment no leader", got.raw)
			}
			s.follow("leader.test:8080")
			if got := events.farewell(t); got != "this instance does not lead: connect again" {
				t.Errorf("last comment = %q, want that the instance does not lead", got)
			}
		})
		t.Run("another leader answers late: "+path, func(t *testing.T) {
			s := start(t)
			s.follow("")
			events := s.stream(t, path)
			if got, _ := events.next(t); got.comment != "no leader" {
				t.Fatalf("event = %q, want the comment no leader", got.raw)
			}
			s.follow("leader.test:8080")
			if got := events.farewell(t); got != "this instance does not lead: connect again" {
				t.Errorf("last comment = %q, want that the instance does not lead", got)
			}
		})
		t.Run("a HEAD does not wait: "+path, func(t *testing.T) {
			s := start(t)
			s.loseLeader()
			if got := s.do(t, "HEAD", path, ""); got.status != 200 || got.header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("answer = %d %v, want 200 with an event stream", got.status, got.header)
			}
			eventually(t, "the HEAD is over", func() bool { return s.metric(t, "nodesmetadata_http_streams_open") == 0 })
		})
		t.Run("a HEAD ends on a leader: "+path, func(t *testing.T) {
			s := start(t)
			raw, _ := hangsUp(t, s.dial(t, "HEAD "+path+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
			if header, body, _ := strings.Cut(raw, "\r\n\r\n"); !strings.HasPrefix(header, "HTTP/1.1 200 ") || body != "" {
				t.Errorf("answer to HEAD = %q with the body %q, want 200 without one", header, body)
			}
			if got := s.do(t, "HEAD", path, ""); got.status != 200 || got.header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("answer = %d %v, want 200 with an event stream", got.status, got.header)
			}
			eventually(t, "the HEAD is over", func() bool { return s.metric(t, "nodesmetadata_http_streams_open") == 0 })
		})
	}
}

func TestAStreamThatIsAskedOfAClosingInstanceEndsWell(t *testing.T) {
	s := start(t)
	s.instance.Change(func(state *ports.LocalState) { state.Closed = true })
	events := s.stream(t, "/nodes/sse")
	if got := events.farewell(t); events.status != 200 || got != "this instance is shutting down: connect again" {
		t.Errorf("stream = %d with the last comment %q, want 200 and that the instance is shutting down", events.status, got)
	}
}

func TestAStreamEndsWithTheReasonWhenLeadershipIsLost(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/nodes/sse", "/raft/metadata/sse"} {
		s.lead()
		events := s.stream(t, path)
		events.event(t)
		s.loseLeader()
		if got := events.farewell(t); got != "this instance does not lead: connect again" {
			t.Errorf("%s: last comment = %q, want that the instance does not lead", path, got)
		}
	}
}

func TestTheClusterStreamTellsWhatHappens(t *testing.T) {
	s := start(t)
	events := s.stream(t, "/raft/metadata/sse")
	want := `retry: 1000
event: snapshot
data: {"nodesMetadata":{"n1":{"nodeID":"n1","raftAddress":"127.0.0.1:7000","applicationAddress":"n1.test:8080","suffrage":"voter","reachable":true,"version":"v1"}},"leaderNodeID":"n1","term":1,"clusterID":"cluster-of-n1"}

`
	if got := events.event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
	s.addSecond(t)
	want = `event: instance_added
data: {"type":"instance_added","nodeID":"n2","raftAddress":"127.0.0.1:7002","suffrage":"voter","reachable":false,"term":1}

`
	if got := events.event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
	if err := s.instance.Remove(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
	want = `event: instance_removed
data: {"type":"instance_removed","nodeID":"n2","raftAddress":"127.0.0.1:7002","suffrage":"voter","term":1}

`
	if got := events.event(t); got.raw != want {
		t.Errorf("event = %q\nwant    %q", got.raw, want)
	}
}

func TestAQuietStreamOnHTTP2OutlivesTheTimeToWrite(t *testing.T) {
	t.Parallel() // the test mostly waits
	s := start(t, func(c *httpapi.Config) {
		c.StalledTimeout, c.KeepAlive = time.Second, 2*time.Second
	})
	s.useHTTP2()
	events := s.stream(t, "/nodes/sse")
	events.event(t)
	for range 2 {
		if got, more := events.next(t); !more || got.comment != "keep-alive" {
			t.Fatalf("the stream ended without a keep-alive: %v", events.err)
		}
	}
}

// A server holds ten thousand streams, and what net/http keeps for a request takes more memory
// than the stream itself.
func TestAStreamKeepsNothingOfItsRequest(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/nodes/sse", "/raft/metadata/sse"} {
		s.stream(t, path).event(t)
	}
	eventually(t, "handlers return while their streams go on", func() bool {
		var stacks bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(stacks.String(), ").runStream") && !strings.Contains(stacks.String(), ").serveStream+")
	})
}

func TestAStreamIsCutWhenItPanics(t *testing.T) {
	s := start(t, func(c *httpapi.Config) { c.Nodes = panickingStream{} })
	events := s.stream(t, "/nodes/sse")
	for range events.blocks {
	}
	if events.err == nil {
		t.Error("the stream ended without an error")
	}
	if log := s.log.String(); strings.Count(log, "ouch") != 1 || strings.Count(log, "level=") != 1 {
		t.Errorf("log = %s, want the panic once", log)
	}
}

// A client that reads a stream line by line may limit the length of a line.
func TestTheLargestClusterFitsIntoAnEvent(t *testing.T) {
	host := strings.TrimSuffix(strings.Repeat(strings.Repeat("h", 62)+".", 4), ".") + ":65535"
	cluster := domain.Cluster{ID: strings.Repeat("c", domain.MaxIDBytes), LeaderID: strings.Repeat("l", domain.MaxIDBytes), Term: math.MaxUint64}
	for n := range domain.MaxInstances {
		id := fmt.Sprintf("n%0*d", domain.MaxIDBytes-1, n)
		instance, err := domain.NewInstance(id, host, nil)
		if err != nil {
			t.Fatal(err)
		}
		instance.Suffrage = domain.Nonvoter
		cluster.Members = append(cluster.Members, domain.Member{Instance: instance, ApplicationAddress: host, Version: "v0.0.0-20261129000000-0123456789ab+dirty"})
	}
	if length := httpapi.ClusterSnapshotLength(cluster); length >= 64<<10 {
		t.Errorf("length of the event = %d bytes, want less than 64 KiB", length)
	}
}
