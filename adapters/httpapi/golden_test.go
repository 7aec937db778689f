package httpapi_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestTheWireFormatDoesNotChange compares what clients see with files, byte by byte. A
// difference is a change of the interface.
func TestTheWireFormatDoesNotChange(t *testing.T) {
	s := start(t)
	const whole = `{"id":"node0","address":"10.0.0.5:11211","pool":"main","weight":50,"zone":"eu-1a","labels":{"rack":"r7","os":"<linux>"},"state":"draining"}`
	golden(t, "node_created", s.do(t, "PUT", "/nodes", whole))
	golden(t, "node_unchanged", s.do(t, "PUT", "/nodes/node0", whole))
	golden(t, "node_plain", s.do(t, "PUT", "/nodes/node1", `{"address":"[2001:db8::1]:11211"}`))
	golden(t, "node", s.do(t, "GET", "/nodes/node0", ""))
	golden(t, "list", s.do(t, "GET", "/nodes", ""))
	golden(t, "list_not_modified", s.do(t, "GET", "/nodes", "", `If-None-Match: "2"`))
	golden(t, "problem", s.do(t, "GET", "/nodes/nobody", ""))
	golden(t, "problem_with_node", s.do(t, "DELETE", "/nodes/node1", "", `If-Match: "1"`))
	golden(t, "problem_with_several_faults", s.do(t, "PUT", "/nodes/node2", `{"address":"x","weight":-1}`))
	golden(t, "instance_unreachable", s.do(t, "PUT", "/raft/node", `{"id":"n2","address":"127.0.0.1:7002"}`))
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ClusterID: "cluster-of-n1"})
	golden(t, "id_mismatch", s.do(t, "PUT", "/raft/node", `{"id":"n3","address":"127.0.0.1:7002"}`))
	golden(t, "instance", s.do(t, "PUT", "/raft/node", `{"id":"n2","address":"127.0.0.1:7002"}`))
	s.peers.Silence("127.0.0.1:7002")
	golden(t, "leadership", s.do(t, "POST", "/raft/leadership", `{"id":"n1"}`))
	s.peers.Answer("127.0.0.1:7009", ports.Identity{RaftID: "n9", ClusterID: "cluster-of-n9"})
	golden(t, "other_cluster", s.do(t, "PUT", "/raft/node", `{"id":"n9","address":"127.0.0.1:7009"}`))
	golden(t, "metadata", s.do(t, "GET", "/raft/metadata", ""))
	golden(t, "ready", s.do(t, "GET", "/readyz", ""))

	nodes, cluster := s.stream(t, "/nodes/sse"), s.stream(t, "/raft/metadata/sse")
	text := nodes.event(t).raw
	s.do(t, "PUT", "/nodes/node1", `{"address":"[2001:db8::1]:11211","state":"draining"}`)
	s.do(t, "DELETE", "/nodes/node1", "")
	s.do(t, "PUT", "/nodes/node3", `{"address":"node3.test:1"}`)
	for range 3 {
		text += nodes.event(t).raw
	}
	goldenText(t, "node_events", text)

	text = cluster.event(t).raw
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8080", Version: "v1"})
	text += cluster.event(t).raw
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8081", Version: "v1"})
	text += cluster.event(t).raw
	s.peers.Silence("127.0.0.1:7002")
	text += cluster.event(t).raw
	if err := s.instance.Add(t.Context(), domain.Instance{ID: "n3", RaftAddress: "h3:1", Suffrage: domain.Nonvoter}); err != nil {
		t.Fatal(err)
	}
	text += cluster.event(t).raw
	if err := s.instance.Remove(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	text += cluster.event(t).raw
	s.lead() // in a later term
	text += cluster.event(t).raw
	goldenText(t, "cluster_events", text)

	s.follow("n2.test:8080")
	golden(t, "redirect", s.do(t, "GET", "/nodes", ""))
	s.loseLeader()
	golden(t, "no_leader", s.do(t, "GET", "/nodes", ""))
	golden(t, "not_ready", s.do(t, "GET", "/readyz", ""))
}

// overdueLeases implements ports.Leases; all its leased nodes are overdue and held back.
type overdueLeases struct {
	ports.Leases
	registry ports.Registry
}

func (overdueLeases) Held() []ports.HeldPool {
	return []ports.HeldPool{{Pool: "main", Overdue: 700, Leased: 1000}, {Pool: "p", Overdue: 3, Leased: 4}}
}

func (l overdueLeases) Expire(ctx context.Context, pool string) ([]domain.Change, domain.Revision, error) {
	view, err := l.registry.Read(ctx)
	if err != nil {
		return nil, 0, err
	}
	var cmd domain.Expire
	for n := range view.Nodes() {
		if n.Pool == pool && n.Expires() {
			cmd.Nodes = append(cmd.Nodes, domain.NodeAt{ID: n.ID, Revision: n.Revision})
		}
	}
	changes, err := l.registry.Propose(ctx, cmd)
	return changes, view.Revision() + domain.Revision(len(changes)), err
}

// TestTheWireFormatOfLeasesBatchesAndReadsDoesNotChange covers the rest of the wire format.
func TestTheWireFormatOfLeasesBatchesAndReadsDoesNotChange(t *testing.T) {
	var leases overdueLeases
	s := start(t, func(c *httpapi.Config) { leases.Leases, c.Leases = c.Leases, &leases })
	leases.registry = s.instance

	golden(t, "node_leased", s.do(t, "PUT", "/nodes/node0", `{"address":"10.0.0.5:11211","pool":"main","ttlSeconds":30}`))
	golden(t, "batch", s.do(t, "POST", "/nodes/batch", `{"changes":[
		{"put":{"id":"node1","address":"10.0.0.6:11211","pool":"main","zone":"eu-1a","ttlSeconds":3600,"onExpiry":"down"},"ifRevision":0},
		{"put":{"id":"node0","address":"10.0.0.5:11211","pool":"main","ttlSeconds":30}},
		{"put":{"id":"node0","address":"10.0.0.5:11211","pool":"main","weight":50,"ttlSeconds":3600},"ifRevision":1},
		{"put":{"id":"node2","address":"node2.test:1","onExpiry":"down"}},
		{"remove":"node2","ifRevision":4},
		{"put":{"id":"node2","address":"node2.test:1"}}]}`))
	golden(t, "batch_refused", s.do(t, "POST", "/nodes/batch", `{"changes":[{"remove":"node2"},{"put":{"id":"node1","address":"h:1"},"ifRevision":9}]}`))
	golden(t, "batch_with_several_faults", s.do(t, "POST", "/nodes/batch", `{"changes":[{"remove":"-"},{},{"put":{"id":"x","address":"h:1","ttlSeconds":0}}]}`))
	golden(t, "heartbeat", s.do(t, "POST", "/nodes/node1/heartbeat", ""))
	golden(t, "no_time_to_live", s.do(t, "POST", "/nodes/node2/heartbeat", ""))
	golden(t, "ready_with_expiry_held", s.do(t, "GET", "/readyz", ""))

	events, filtered := s.stream(t, "/nodes/sse?since=6"), s.stream(t, "/nodes/sse?pool=main&state=active")
	golden(t, "expire", s.do(t, "POST", "/nodes/expire?pool=main", ""))
	golden(t, "expire_nothing", s.do(t, "POST", "/nodes/expire?pool=other", ""))
	s.do(t, "POST", "/nodes/node1/heartbeat", "")
	goldenText(t, "expired_events", events.event(t).raw+events.event(t).raw+events.event(t).raw)

	s.do(t, "PUT", "/nodes/node2", `{"address":"node2.test:1","zone":"eu-1b"}`) // the filtered stream must not show this one
	s.do(t, "PUT", "/nodes/node2", `{"address":"node2.test:1","zone":"eu-1b","pool":"main"}`)
	s.do(t, "PUT", "/nodes/node2", `{"address":"node2.test:1","zone":"eu-1b","pool":"main","weight":1}`)
	s.do(t, "PUT", "/nodes/node2", `{"address":"node2.test:1","zone":"eu-1b","pool":"main","weight":1,"state":"draining"}`)
	text := filtered.event(t).raw
	for range 6 {
		text += filtered.event(t).raw
	}
	goldenText(t, "filtered_events", text)
	golden(t, "filtered_list", s.do(t, "GET", "/nodes?pool=main&label=rack=r7", ""))

	s.instance.Touch(1234 * time.Millisecond)
	golden(t, "stale", s.do(t, "GET", "/nodes/node1?consistency=stale", ""))
	golden(t, "too_stale", s.do(t, "GET", "/nodes/node1?consistency=stale&max_stale=1s", ""))
	golden(t, "long_poll_not_modified", s.do(t, "GET", "/nodes?since=13&wait=1ms", ""))
	golden(t, "revision_not_reached", s.do(t, "GET", "/nodes?min_revision=14&wait=1ms", ""))
	golden(t, "several_faults_in_a_query", s.do(t, "GET", "/nodes?consistency=none&wait=1h&since=x&label=rack", ""))
	s.instance.Change(func(state *ports.LocalState) { state.CaughtUp = false })
	golden(t, "not_caught_up", s.do(t, "GET", "/nodes?consistency=stale", ""))
	s.follow("n2.test:8080")
	golden(t, "not_leader", s.do(t, "DELETE", "/nodes/node1?redirect=false", ""))
}

func golden(t *testing.T, name string, got reply) {
	t.Helper()
	text := fmt.Sprintf("%d\n", got.status)
	var lines []string
	for header, values := range got.header {
		if header != "Date" {
			lines = append(lines, header+": "+strings.Join(values, ", ")+"\n")
		}
	}
	slices.Sort(lines)
	goldenText(t, name, text+strings.Join(lines, "")+"\n"+got.body+"\n")
}

func goldenText(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s =\n%s\nwant\n%s", name, got, want)
	}
}
