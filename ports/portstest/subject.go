package portstest

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// patience limits every wait of a suite. It is exceeded only if a promise is broken.
const patience = 10 * time.Second

// Ports are the ports of one instance.
type Ports struct {
	ID         string
	Registry   ports.Registry
	Local      ports.Local
	Membership ports.Membership
	Leadership ports.Leadership
	Promotions ports.Promotions
	Formats    ports.Formats
	Restorer   ports.Restorer
}

// Subject is what a suite checks: a new cluster with an empty registry, in which nobody else
// changes anything.
type Subject struct {
	// Leader leads, and is able to serve.
	Leader Ports
	// Follower is another voter. If it is nil, the suite skips the promises about followers.
	Follower *Ports
	// StopLeader stops the leader for good, and leaves a cluster in which nobody else can
	// lead. If it is nil, the suite skips the promises about such a cluster.
	StopLeader func()
}

// Ports returns the ports of i.
func (i *Instance) Ports() Ports {
	return Ports{ID: i.id, Registry: i, Local: i, Membership: i, Leadership: i, Promotions: i, Formats: i, Restorer: i}
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func ended(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// await returns the first state for which holds is true. what describes it.
func await(t testing.TB, local ports.Local, what string, holds func(ports.LocalState) bool) ports.LocalState {
	t.Helper()
	deadline := time.After(patience)
	for {
		state, later := local.State()
		if holds(state) {
			return state
		}
		select {
		case <-later:
		case <-deadline:
			state.View = domain.View{} // too long for a message
			t.Fatalf("not within %v: %s; state = %+v", patience, what, state)
		}
	}
}

func cacheNode(id string, weight int) domain.CacheNode {
	return domain.CacheNode{
		ID: id, Address: id + ".example:11211", Pool: "pool-" + id, Weight: weight, Zone: "z",
		Labels: map[string]string{"rack": "r7"}, State: domain.Active, OnExpiry: domain.RemoveOnExpiry,
	}
}

func register(id string, weight int) domain.Register {
	return domain.Register{Node: cacheNode(id, weight)}
}

func mustPropose(t testing.TB, registry ports.Registry, cmd domain.Command) domain.Change {
	t.Helper()
	change, err := only(registry.Propose(within(t), cmd))
	if err != nil {
		t.Fatalf("propose %+v: %v", cmd, err)
	}
	return change
}

// only returns the only change of a command that makes at most one.
func only(changes []domain.Change, err error) (domain.Change, error) {
	if len(changes) != 1 {
		return domain.Change{}, err
	}
	return changes[0], err
}

func mustRead(t testing.TB, registry ports.Registry) domain.View {
	t.Helper()
	view, err := registry.Read(within(t))
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return view
}

// shown is everything that a view shows, as values.
type shown struct {
	Revision domain.Revision
	Nodes    []domain.CacheNode
	History  []domain.Change
}

func show(view domain.View) shown {
	s := shown{Revision: view.Revision(), History: append([]domain.Change(nil), view.History()...)}
	for n := range view.Nodes() {
		s.Nodes = append(s.Nodes, *n)
	}
	return s
}

func mustEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %s\nwant %s", what, shortened(got), shortened(want))
	}
}

func shortened(v any) string {
	const most = 2000
	text := fmt.Sprintf("%+v", v)
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
