package daemon_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

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
