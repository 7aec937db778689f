package httpapi_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// filters maps queries to the nodes that they match; nil: the query is refused.
var filters = map[string]func(*domain.CacheNode) bool{
	"":                              func(*domain.CacheNode) bool { return true },
	"pool=p":                        func(n *domain.CacheNode) bool { return n.Pool == "p" },
	"pool=q":                        func(n *domain.CacheNode) bool { return n.Pool == "q" },
	"state=active":                  func(n *domain.CacheNode) bool { return n.State == "active" },
	"state=down":                    func(n *domain.CacheNode) bool { return n.State == "down" },
	"zone=":                         func(n *domain.CacheNode) bool { return n.Zone == "" },
	"zone=z1&pool=p":                func(n *domain.CacheNode) bool { return n.Zone == "z1" && n.Pool == "p" },
	"label=rack=r1":                 func(n *domain.CacheNode) bool { return n.Labels["rack"] == "r1" },
	"label=rack=r1&label=os=":       func(n *domain.CacheNode) bool { _, has := n.Labels["os"]; return n.Labels["rack"] == "r1" && has },
	"label=rack=r1&label=rack=r2":   func(*domain.CacheNode) bool { return false },
	"pool=p&state=active&zone=z1":   func(n *domain.CacheNode) bool { return n.Pool == "p" && n.State == "active" && n.Zone == "z1" },
	"pool=p&label=rack=r1&state=up": nil, // refused
}

// wander changes the registry of s at random: nodes come and go, move between pools, expire
// and come back.
func wander(t *testing.T, s *service, random *rand.Rand) {
	t.Helper()
	pick := func(values ...string) string { return values[random.IntN(len(values))] }
	state, _ := s.instance.State()
	var known []*domain.CacheNode
	for n := range state.View.Nodes() {
		known = append(known, n)
	}
	register := func() domain.Command {
		pool, state := pick("p", "q"), domain.State(pick("active", "active", "draining", "down"))
		expiry, ttl, id := domain.OnExpiry(pick("remove", "down")), 3600, random.IntN(8)
		spec := domain.NodeSpec{
			ID: fmt.Sprintf("n%d", id), Address: fmt.Sprintf("h%d:1", id), Pool: &pool, State: &state, Zone: pick("", "z1"),
			Labels: map[string]string{}, TTLSeconds: &ttl, OnExpiry: &expiry,
		}
		if rack := pick("", "r1", "r2"); rack != "" {
			spec.Labels["rack"] = rack
		}
		if random.IntN(2) == 0 {
			spec.Labels["os"] = ""
		}
		node, err := domain.NewCacheNode(spec)
		if err != nil {
			t.Fatal(err)
		}
		return domain.Register{Node: node}
	}
	var cmd domain.Command
	one := func() *domain.CacheNode { return known[random.IntN(len(known))] }
	switch kind := random.IntN(10); {
	case kind < 4 || len(known) == 0:
		cmd = register()
	case kind < 6:
		cmd = domain.Batch{Commands: []domain.Command{register(), register(), register()}}
	case kind < 7:
		cmd = domain.Deregister{ID: one().ID}
	case kind < 9:
		n := one()
		cmd = domain.Expire{Nodes: []domain.NodeAt{{ID: n.ID, Revision: n.Revision}}}
	default:
		cmd = domain.Revive{ID: one().ID}
	}
	if _, err := s.instance.Propose(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
}

// nodeJSON is a node as the API shows it.
func nodeJSON(n *domain.CacheNode) string { return string(httpapi.AppendNode(nil, n)) }

// past holds the nodes by id, at each revision.
type past []map[string]*domain.CacheNode

// remember appends the revisions since the last call.
func (p past) remember(t *testing.T, s *service) past {
	t.Helper()
	state, _ := s.instance.State()
	changes, reaches := state.View.Since(domain.Revision(len(p) - 1))
	if !reaches {
		t.Fatal("history is too short for this test")
	}
	for _, change := range changes {
		nodes := maps.Clone(p[len(p)-1])
		nodes[change.Node.ID] = change.Node
		if change.Effect == domain.Removed {
			delete(nodes, change.Node.ID)
		}
		p = append(p, nodes)
	}
	return p
}

// matching returns the nodes at a revision that a filter matches, in JSON.
func (p past) matching(revision int, matches func(*domain.CacheNode) bool) map[string]string {
	nodes := map[string]string{}
	for id, n := range p[revision] {
		if matches(n) {
			nodes[id] = nodeJSON(n)
		}
	}
	return nodes
}

// replay is the state of a client that applies the events of a stream.
type replay struct {
	nodes    map[string]string
	revision int
}

// rawNode is a node in an event, with its JSON as it came.
type rawNode struct {
	id, text string
}

func (n *rawNode) UnmarshalJSON(text []byte) error {
	n.text = string(text)
	var named struct{ ID string }
	err := json.Unmarshal(text, &named)
	n.id = named.ID
	return err
}

// follow applies events until the client is at a revision, and checks at every revision
// that the client knows the matching nodes.
func (r *replay) follow(t *testing.T, events *reader, p past, until int, matches func(*domain.CacheNode) bool) {
	t.Helper()
	for ; r.revision < until; r.revision++ {
		before, after := p.matching(r.revision, matches), p.matching(r.revision+1, matches)
		if maps.Equal(before, after) {
			continue // no event: this change does not concern the client
		}
		var data struct {
			Revision       int
			Type           string
			Node, Previous *rawNode
			Reason         string
		}
		event := events.event(t)
		if err := json.Unmarshal([]byte(event.data), &data); err != nil {
			t.Fatal(err)
		}
		if data.Revision != r.revision+1 || event.id != fmt.Sprint(data.Revision) || data.Type != event.kind || data.Node == nil {
			t.Fatalf("event = %s, want one at revision %d", event.raw, r.revision+1)
		}
		id := data.Node.id
		known, knew := r.nodes[id]
		switch data.Type {
		case "added":
			if knew || data.Previous != nil {
				t.Fatalf("known before = %s, want an unknown node in the event %s", known, event.raw)
			}
			r.nodes[id] = data.Node.text
		case "updated":
			if !knew || data.Previous == nil || data.Previous.text != known {
				t.Fatalf("known before = %s, want the previous node of the event %s", known, event.raw)
			}
			r.nodes[id] = data.Node.text
		case "removed":
			if !knew || data.Previous == nil || data.Previous.text != known || data.Node.text != known {
				t.Fatalf("known before = %s, want the removed node of the event %s", known, event.raw)
			}
			delete(r.nodes, id)
		default:
			t.Fatalf("unknown event: %s", event.raw)
		}
		if !maps.Equal(r.nodes, after) {
			t.Fatalf("nodes of the client at revision %d = %v, want %v", r.revision+1, r.nodes, after)
		}
	}
}

// begin applies the snapshot.
func (r *replay) begin(t *testing.T, events *reader) {
	t.Helper()
	r.nodes = map[string]string{}
	for {
		var data struct {
			Revision, Part, Parts int
			Nodes                 map[string]json.RawMessage
		}
		event := events.event(t)
		if err := json.Unmarshal([]byte(event.data), &data); err != nil || event.kind != "snapshot" {
			t.Fatalf("first event = %s, want a snapshot: %v", event.raw, err)
		}
		for id, node := range data.Nodes {
			r.nodes[id] = string(node)
		}
		if last := data.Part == data.Parts; last != (event.id == fmt.Sprint(data.Revision)) || !last && event.id != "" {
			t.Fatalf("part %d of %d has id %q, want the revision on the last part only", data.Part, data.Parts, event.id)
		} else if last {
			r.revision = data.Revision
			return
		}
	}
}

func TestAFilteredStreamAddsUpToTheFilteredList(t *testing.T) {
	for seed := range uint64(3) {
		s := start(t)
		s.undescribed() // there are thousands of answers of kinds that other tests check
		random := rand.New(rand.NewPCG(seed, 1))
		p := past{{}}
		for range 20 {
			wander(t, s, random)
		}
		p = p.remember(t, s)
		streams, clients := map[string]*reader{}, map[string]*replay{}
		for query, matches := range filters {
			if matches == nil {
				if got := s.do(t, "GET", "/nodes/sse?"+query, ""); got.status != 400 {
					t.Errorf("%s: status = %d, want 400", query, got.status)
				}
				continue
			}
			streams[query], clients[query] = s.stream(t, "/nodes/sse?"+query), &replay{}
			clients[query].begin(t, streams[query])
			if want := p.matching(len(p)-1, matches); clients[query].revision != len(p)-1 || !maps.Equal(clients[query].nodes, want) {
				t.Fatalf("%s: snapshot at revision %d = %v, want %v", query, clients[query].revision, clients[query].nodes, want)
			}
		}
		for range 150 {
			wander(t, s, random)
			p = p.remember(t, s)
			now := len(p) - 1
			for query, matches := range filters {
				if matches == nil {
					continue
				}
				got := s.do(t, "GET", "/nodes?"+query, "")
				var list map[string]json.RawMessage
				if err := json.Unmarshal([]byte(got.body), &list); err != nil {
					t.Fatal(err)
				}
				nodes := map[string]string{}
				for id, node := range list {
					nodes[id] = string(node)
				}
				if want := p.matching(now, matches); got.header.Get("ETag") != fmt.Sprintf(`"%d"`, now) || !maps.Equal(nodes, want) {
					t.Fatalf("%s: list with ETag %s = %v, want %v", query, got.header.Get("ETag"), nodes, want)
				}
				clients[query].follow(t, streams[query], p, now, matches)
			}
		}
		// A client can reconnect at any revision.
		for query, matches := range filters {
			if matches == nil {
				continue
			}
			for range 3 {
				since := random.IntN(len(p))
				client := &replay{nodes: p.matching(since, matches), revision: since}
				client.follow(t, s.stream(t, "/nodes/sse?"+query, fmt.Sprintf("Last-Event-ID: %d", since)), p, len(p)-1, matches)
			}
		}
		for _, events := range streams {
			events.cancel()
		}
	}
}

func TestALargeFilteredSnapshotComesInPartsToo(t *testing.T) {
	s := start(t)
	const nodes = 4000
	for i := range nodes {
		pool := []string{"p", "q"}[i%2]
		s.register(t, domain.NodeSpec{ID: fmt.Sprintf("node%06d", i), Address: fmt.Sprintf("h%d:1", i), Pool: &pool, Zone: "eu-1a"})
	}
	weight := 1
	last := s.register(t, domain.NodeSpec{ID: "node000000", Address: "h0:1", Weight: &weight, Zone: "eu-1a"}) // in the default pool
	for query, want := range map[string]struct{ nodes, parts int }{
		"pool=p":                 {nodes/2 - 1, 2},
		"pool=q":                 {nodes / 2, 2},
		"zone=eu-1a":             {nodes, 2},
		"pool=default":           {1, 1},
		"pool=p&label=rack=none": {0, 1},
	} {
		events := s.stream(t, "/nodes/sse?"+query)
		if got := events.header.Get("Nodesmetadata-Revision"); got != fmt.Sprint(last.Revision) {
			t.Errorf("%s: Nodesmetadata-Revision = %q, want %d", query, got, last.Revision)
		}
		seen, text, parts := 0, "{", 0
		for {
			got := events.event(t)
			var data struct {
				Part, Parts int
				Nodes       map[string]struct{ ID, Pool string }
			}
			if err := json.Unmarshal([]byte(got.data), &data); err != nil {
				t.Fatal(err)
			}
			if parts++; data.Part != parts || len(got.raw) >= 48<<10 || (got.retry != "") != (parts == 1) {
				t.Fatalf("%s: part %d of %d bytes = %.200q, want the next part, under 48 KiB, with retry on the first only", query, data.Part, len(got.raw), got.raw)
			}
			seen += len(data.Nodes)
			_, members, _ := strings.Cut(got.data, `"nodes":{`)
			if members = strings.TrimSuffix(members, "}}"); len(text) > 1 && members != "" {
				text += ","
			}
			text += members
			if final := data.Part == data.Parts; final != (got.id == fmt.Sprint(last.Revision)) || !final && got.id != "" {
				t.Fatalf("%s: part %d of %d has id %q, want the revision on the last part only", query, data.Part, data.Parts, got.id)
			} else if final {
				break
			}
		}
		if seen != want.nodes || (want.parts == 1) != (parts == 1) {
			t.Errorf("%s: nodes = %d in %d parts, want %d in at least %d", query, seen, parts, want.nodes, want.parts)
		}
		// The parts together are the list.
		if got := s.do(t, "GET", "/nodes?"+query, ""); got.body != text+"}" {
			t.Errorf("%s: the parts of the snapshot differ from the list", query)
		}
	}
}

// Every change wakes a filtered stream, although it may have nothing to send for hours. The
// time until the next keep-alive must not begin anew with each change.
func TestAFilteredStreamIsKeptAliveWhileOthersChange(t *testing.T) {
	s := start(t, func(c *httpapi.Config) { c.KeepAlive = 50 * time.Millisecond })
	s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1"})
	quiet, busy := s.stream(t, "/nodes/sse?pool=default"), s.stream(t, "/nodes/sse?since=1")
	quiet.event(t)
	stop := make(chan struct{})
	var writing sync.WaitGroup
	defer writing.Wait()
	defer close(stop)
	writing.Go(func() {
		for weight := 0; ; weight++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				pool, weight := "other", weight%1000
				s.register(t, domain.NodeSpec{ID: "o", Address: "h:1", Pool: &pool, Weight: &weight})
			}
		}
	})
	for range 5 {
		began := time.Now()
		got, more := quiet.next(t)
		if !more || got.raw != ": keep-alive\n\n" {
			t.Fatalf("next = %v %q, want a keep-alive", more, got.raw)
		}
		if silence := time.Since(began); silence > 5*time.Second {
			t.Errorf("time without a keep-alive = %v, want at most 5s", silence)
		}
		busy.event(t) // proves that nodes have changed meanwhile
	}
	s.do(t, "PUT", "/nodes/a", `{"address":"10.0.0.1:1","weight":1}`)
	if got := quiet.event(t); got.kind != "updated" || !strings.Contains(got.data, `"id":"a"`) {
		t.Errorf("event = %q, want the update of a", got.raw)
	}
}

// eventText returns the event of a change on a stream with the filter matches, or "" if
// there is none.
func eventText(c domain.Change, matches func(*domain.CacheNode) bool) string {
	was, is := c.Previous != nil && matches(c.Previous), c.Effect != domain.Removed && matches(c.Node)
	kind, node, previous := "updated", c.Node, c.Previous
	switch {
	case !was && !is:
		return ""
	case !was:
		kind, previous = "added", nil
	case !is:
		kind, node = "removed", c.Previous
	}
	text := fmt.Sprintf(`{"revision":%d,"type":"%s","node":%s`, c.Revision, kind, nodeJSON(node))
	if previous != nil {
		text += `,"previous":` + nodeJSON(previous)
	}
	return fmt.Sprintf("event: %s\nid: %d\ndata: %s,\"reason\":\"%s\"}\n\n", kind, c.Revision, text, c.Reason)
}

// All these streams share the events that were encoded for others at the same time, and
// none may get the event of another.
func TestStreamsWithDifferentFiltersDoNotMixTheirEvents(t *testing.T) {
	s := start(t)
	s.undescribed() // the checks would slow the readers down
	random := rand.New(rand.NewPCG(7, 7))
	wander(t, s, random)
	// Every follower reads while the registry changes, and keeps what it reads.
	type follower struct {
		matches func(*domain.CacheNode) bool
		mu      sync.Mutex
		came    strings.Builder
	}
	var followers []*follower
	open := func() {
		for query, matches := range filters {
			if matches == nil {
				continue
			}
			f := &follower{matches: matches}
			followers = append(followers, f)
			events := s.stream(t, "/nodes/sse?since=0&"+query)
			go func() {
				for b := range events.blocks {
					f.mu.Lock()
					f.came.WriteString(b.raw)
					f.mu.Unlock()
				}
			}()
		}
	}
	open()
	open()
	for range 300 {
		wander(t, s, random)
	}
	open() // these begin with changes whose events are cached
	for range 300 {
		wander(t, s, random)
	}
	state, _ := s.instance.State()
	history, reaches := state.View.Since(0)
	if !reaches {
		t.Fatal("history is too short for this test")
	}
	for _, f := range followers {
		var want strings.Builder
		for _, change := range history {
			if text := eventText(change, f.matches); text != "" && want.Len() == 0 {
				want.WriteString("retry: 1000\n" + text)
			} else {
				want.WriteString(text)
			}
		}
		var came string
		eventually(t, "all events came", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			came = f.came.String()
			return len(came) >= want.Len()
		})
		if came != want.String() {
			t.Errorf("events = %.2000q\nwant     %.2000q", came, want.String())
		}
	}
}
