package daemon_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func registered(t *testing.T, i *portstest.Instance, id, pool string, state domain.State) {
	t.Helper()
	node, err := domain.NewCacheNode(domain.NodeSpec{ID: id, Address: id + ":1", Pool: &pool, State: &state})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Propose(t.Context(), domain.Register{Node: node}); err != nil {
		t.Fatal(err)
	}
}

// shown returns the values of the metrics of the registry, by name and label values, such as
// "nodes p active".
func shown(t *testing.T, i *portstest.Instance) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(daemon.RegistryCollector(i))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := []string{strings.TrimPrefix(family.GetName(), "nodesmetadata_registry_")}
			for _, label := range m.GetLabel() {
				key = append(key, label.GetValue())
			}
			values[strings.Join(key, " ")] = m.GetGauge().GetValue()
		}
	}
	return values
}

func nodesShown(t *testing.T, i *portstest.Instance) map[string]float64 {
	t.Helper()
	values := shown(t, i)
	maps.DeleteFunc(values, func(key string, _ float64) bool { return !strings.HasPrefix(key, "nodes ") })
	return values
}

func TestNodesAreCountedByPoolAndState(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	registered(t, i, "a", "p", domain.Active)
	registered(t, i, "b", "p", domain.Active)
	registered(t, i, "c", "p", domain.Down)
	registered(t, i, "d", "q", domain.Draining)
	want := map[string]float64{
		"nodes p active": 2, "nodes p down": 1, "nodes p draining": 0,
		"nodes q active": 0, "nodes q down": 0, "nodes q draining": 1,
	}
	if got := nodesShown(t, i); !maps.Equal(got, want) {
		t.Errorf("nodes = %v, want %v", got, want)
	}
}

// Otherwise a client that registers nodes in many pools could overload the monitoring system.
func TestManyPoolsMakeFewSeries(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	for n := range 150 {
		registered(t, i, fmt.Sprintf("a%d", n), fmt.Sprintf("pool%03d", n), domain.Active)
	}
	registered(t, i, "b", "pool149", domain.Active) // makes this pool the largest
	got := nodesShown(t, i)
	sum := 0.0
	for _, value := range got {
		sum += value
	}
	if len(got) != 101*3 || sum != 151 || got["nodes (others) active"] != 50 || got["nodes pool149 active"] != 2 {
		t.Errorf("series = %d, nodes = %v, in other pools = %v, in the largest pool = %v, want 303, 151, 50 and 2",
			len(got), sum, got["nodes (others) active"], got["nodes pool149 active"])
	}
}

func TestAnInstanceThatNeverHeardFromALeaderSaysNoContact(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	if got := shown(t, i); got["nodesmetadata_ready"] != 1 || got["nodesmetadata_caught_up"] != 1 {
		t.Errorf("metrics of a ready instance = %v, want it ready and caught up", got)
	}
	i.Touch(-1)
	i.Change(func(s *ports.LocalState) { s.LeaderID, s.Leading, s.CaughtUp = "", false, false })
	got := shown(t, i)
	if contact, told := got["nodesmetadata_leader_contact_seconds"]; told {
		t.Errorf("leader contact = %v s, want none", contact)
	}
	if got["nodesmetadata_ready"] != 0 || got["nodesmetadata_caught_up"] != 0 {
		t.Errorf("metrics of an instance that is not ready = %v, want it neither ready nor caught up", got)
	}
}

func TestEachMetricShowsItsOwnNumber(t *testing.T) {
	got := measured(t, daemon.Collector(
		demux.Stats{
			Accepted: 1, AcceptErrors: 2, Pending: 3, Rejected: map[demux.Reason]uint64{demux.Silent: 4},
			Lanes: map[byte]demux.LaneStats{
				consensus.RaftLane: {HandedOver: 5, Queued: 6, Open: 7, Evicted: 8},
				peerapi.Lane:       {HandedOver: 9, Queued: 10, Open: 11, Evicted: 12},
			},
		},
		consensus.Stats{
			Opened: true, Term: 13, Leads: true, LastIndex: 14, CommitIndex: 15, AppliedIndex: 16,
			ProofsTotal: 17, ProvenTotal: 18, QuestionsTotal: 19, AskedTotal: 20, Format: 21, SharedFormat: 22,
			DiskTrouble: true, DiskTroublesTotal: 23, LogBytes: 24, SnapshotBytes: 25,
		},
		app.LeaseStats{Leased: 26, Renewals: 27, Expired: 28, Held: []ports.HeldPool{{Pool: "p", Overdue: 29}, {Pool: "q", Overdue: 30}}},
	))
	want := map[string]float64{
		"raft_port_accepted_total COUNTER":                 1,
		"raft_port_accept_errors_total COUNTER":            2,
		"raft_port_pending GAUGE":                          3,
		`raft_port_rejected_total COUNTER reason="silent"`: 4,
		`raft_port_handed_over_total COUNTER lane="raft"`:  5,
		`raft_port_open GAUGE lane="raft"`:                 7,
		`raft_port_evicted_total COUNTER lane="raft"`:      8,
		`raft_port_handed_over_total COUNTER lane="peer"`:  9,
		`raft_port_open GAUGE lane="peer"`:                 11,
		`raft_port_evicted_total COUNTER lane="peer"`:      12,
		"raft_term GAUGE":                                  13,
		"raft_leader GAUGE":                                1,
		"raft_last_index GAUGE":                            14,
		"raft_commit_index GAUGE":                          15,
		"raft_applied_index GAUGE":                         16,
		"read_gate_rounds_total COUNTER":                   17,
		"read_gate_readers_total COUNTER":                  18,
		"read_index_rounds_total COUNTER":                  19,
		"read_index_readers_total COUNTER":                 20,
		"log_format GAUGE":                                 21,
		"log_format_shared GAUGE":                          22,
		"disk_trouble GAUGE":                               1,
		"disk_troubles_total COUNTER":                      23,
		"log_store_bytes GAUGE":                            24,
		"snapshots_bytes GAUGE":                            25,
		"leases GAUGE":                                     26,
		"lease_renewals_total COUNTER":                     27,
		"lease_expired_total COUNTER":                      28,
		"lease_expiry_held_pools GAUGE":                    2,
		`lease_expiry_held_nodes GAUGE pool="p"`:           29,
		`lease_expiry_held_nodes GAUGE pool="q"`:           30,
	}
	for name, value := range want {
		if shown, ok := got["nodesmetadata_"+name]; !ok || shown != value {
			t.Errorf("%s = %v (there: %v), want %v", name, shown, ok, value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("metrics = %d, want %d: %v", len(got), len(want), got)
	}
}

// Before raft is open its numbers would be zeros, which it never had.
func TestAnInstanceThatIsNotOpenShowsNothingOfRaft(t *testing.T) {
	for name := range measured(t, daemon.Collector(demux.Stats{}, consensus.Stats{}, app.LeaseStats{})) {
		if strings.HasPrefix(name, "nodesmetadata_raft_term") || strings.HasPrefix(name, "nodesmetadata_log_") {
			t.Errorf("%s is there", name)
		}
	}
}

func TestManyHeldPoolsMakeFewSeries(t *testing.T) {
	var held []ports.HeldPool
	for n := range 150 {
		held = append(held, ports.HeldPool{Pool: fmt.Sprintf("pool%03d", n), Overdue: 1})
	}
	got := measured(t, daemon.Collector(demux.Stats{}, consensus.Stats{}, app.LeaseStats{Held: held}))
	maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.Contains(name, "held_nodes") })
	if len(got) != 100 {
		t.Errorf("series of pools that are held = %d, want 100", len(got))
	}
}

func TestDurationsAreMeasuredInSeconds(t *testing.T) {
	observer, collectors := daemon.NewLatencies()
	observer.Proposed(time.Second)
	observer.Applied(3, 2*time.Second)
	observer.Applied(4, 2*time.Second)
	observer.Stored(5 * time.Second)
	got := map[string]float64{}
	for _, one := range collectors {
		maps.Copy(got, measured(t, one))
	}
	for name, want := range map[string]float64{
		"write_duration_seconds HISTOGRAM sum":     1,
		"apply_duration_seconds HISTOGRAM sum":     4,
		"apply_duration_seconds HISTOGRAM count":   2,
		"log_store_duration_seconds HISTOGRAM sum": 5,
		"applied_entries_total COUNTER":            7,
	} {
		if got["nodesmetadata_"+name] != want {
			t.Errorf("%s = %v, want %v", name, got["nodesmetadata_"+name], want)
		}
	}
}
