package portstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

func propose(t testing.TB, registry ports.Registry, cmd domain.Command) []domain.Change {
	t.Helper()
	changes, err := registry.Propose(within(t), cmd)
	if err != nil {
		t.Fatalf("propose %+v: %v", cmd, err)
	}
	return changes
}

func batchIsCarriedOut(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	before := mustRead(t, registry).Revision()
	a, b, heavier := cacheNode("a", 1), cacheNode("b", 1), cacheNode("a", 2)
	// In the batch an address is released before it is taken.
	c := cacheNode("c", 1)
	c.Address = b.Address
	changes := propose(t, registry, domain.Batch{Commands: []domain.Command{
		domain.Register{Node: a},
		domain.Register{Node: b, If: domain.Condition{Expect: domain.Absent}},
		domain.Register{Node: b},
		domain.Deregister{ID: "b", If: domain.Condition{Expect: domain.AtRevision, Revision: before + 2}},
		domain.Register{Node: c},
		domain.Register{Node: heavier},
	}})
	at := func(n domain.CacheNode, created, revision domain.Revision, slot int) *domain.CacheNode {
		n.CreatedRevision, n.Revision, n.Slot = before+created, before+revision, slot
		return &n
	}
	first, second := at(a, 1, 1, 0), at(b, 2, 2, 0)
	want := []domain.Change{
		{Revision: before + 1, Effect: domain.Added, Reason: domain.ByRequest, Node: first},
		{Revision: before + 2, Effect: domain.Added, Reason: domain.ByRequest, Node: second},
		{Revision: before + 2, Effect: domain.Unchanged, Reason: domain.ByRequest, Node: second, Previous: second},
		{Revision: before + 3, Effect: domain.Removed, Reason: domain.ByRequest, Node: second, Previous: second},
		{Revision: before + 4, Effect: domain.Added, Reason: domain.ByRequest, Node: at(c, 4, 4, 0)},
		{Revision: before + 5, Effect: domain.Updated, Reason: domain.ByRequest, Node: at(heavier, 1, 5, 0), Previous: first},
	}
	mustEqual(t, "the changes of the batch", changes, want)
	history, _ := mustRead(t, registry).Since(before)
	mustEqual(t, "history", history, append(want[:2:2], want[3:]...))
}

func batchIsRefusedWhole(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	mustPropose(t, registry, register("a", 1))
	last := mustPropose(t, registry, register("b", 1))
	before := show(mustRead(t, registry))
	taken := cacheNode("new", 1)
	taken.Address = cacheNode("a", 1).Address
	for name, test := range map[string]struct {
		refused domain.Command
		err     error
		current *domain.CacheNode
	}{
		"a node with an address in use": {domain.Register{Node: taken}, domain.ErrAddressInUse, nil},
		"an unknown node":               {domain.Deregister{ID: "new"}, domain.ErrNoSuchNode, nil},
		"a node at another revision":    {domain.Deregister{ID: "b", If: domain.Condition{Expect: domain.AtRevision, Revision: last.Revision + 9}}, domain.ErrConditionFailed, last.Node},
	} {
		t.Run(name, func(t *testing.T) {
			changes, err := registry.Propose(within(t), domain.Batch{Commands: []domain.Command{
				register("c", 1), register("a", 7), test.refused, register("d", 1),
			}})
			var refusal *domain.Refusal
			if !errors.Is(err, test.err) || !errors.As(err, &refusal) || errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Fatalf("error = %v, want the refusal %v", err, test.err)
			}
			if len(changes) != 0 || !strings.HasPrefix(err.Error(), "changes[2]: ") {
				t.Errorf("changes = %+v, error = %q, want none and an error about changes[2]", changes, err)
			}
			mustEqual(t, "the current node of the refusal", refusal.Current, test.current)
			mustEqual(t, "the revision of the refusal", refusal.Revision, before.Revision)
			mustEqual(t, "the registry after the refusal", show(mustRead(t, registry)), before)
		})
	}
	if change := mustPropose(t, registry, register("c", 1)); change.Revision != before.Revision+1 {
		t.Errorf("revision of the next change = %d, want %d", change.Revision, before.Revision+1)
	}
}

// batchIsSeenWhole makes batches that all have the same number of changes, so that the revision
// shows whether a view is from the middle of a batch.
func batchIsSeenWhole(t *testing.T, s Subject) {
	const (
		batches = 60
		size    = 7
	)
	base := mustRead(t, s.Leader.Registry).Revision()
	ctx := within(t)
	written := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		defer close(written)
		for i := range batches {
			batch := domain.Batch{}
			for n := range size {
				batch.Commands = append(batch.Commands, register(fmt.Sprintf("node%d", n), i))
			}
			if changes, err := s.Leader.Registry.Propose(ctx, batch); err != nil || len(changes) != size {
				t.Errorf("Propose = %d changes, %v, want %d", len(changes), err, size)
				return
			}
		}
	})
	mustBeWhole := func(who string, view domain.View) {
		if (view.Revision()-base)%size != 0 {
			t.Errorf("%s shows revision %d, in the middle of a batch", who, view.Revision())
		}
	}
	read := func(who string, read func(context.Context) (domain.View, error)) {
		all.Go(func() {
			for over := false; !over; {
				select {
				case <-written:
					over = true // after one more view
				default:
				}
				view, err := read(ctx)
				if err != nil {
					t.Errorf("%s: %v", who, err)
					return
				}
				mustBeWhole(who, view)
			}
		})
	}
	watch := func(who string, local ports.Local) {
		all.Go(func() {
			for {
				state, later := local.State()
				mustBeWhole(who, state.View)
				select {
				case <-later:
				case <-written:
					return
				}
			}
		})
	}
	read("a read", s.Leader.Registry.Read)
	watch("the leader", s.Leader.Local)
	if s.Follower != nil {
		read("a read at the follower", s.Follower.Registry.ReadHere)
		// The follower may not have applied what came before the batches until it reads.
		mustReadHere(t, s.Follower.Registry)
		watch("the follower", s.Follower.Local)
	}
	all.Wait()
}

func nodeExpiresAndRevives(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	removed, down, lasting := cacheNode("removed", 1), cacheNode("down", 1), cacheNode("lasting", 1)
	removed.TTLSeconds, down.TTLSeconds = 30, 30
	down.OnExpiry, down.State = domain.DownOnExpiry, domain.Draining
	var nodes []*domain.CacheNode
	for _, change := range propose(t, registry, domain.Batch{Commands: []domain.Command{
		domain.Register{Node: removed}, domain.Register{Node: down}, domain.Register{Node: lasting},
	}}) {
		nodes = append(nodes, change.Node)
	}
	before := mustRead(t, registry).Revision()

	// Expire skips a node that has changed since, does not exist, or has no time to live.
	if changes := propose(t, registry, domain.Expire{Nodes: []domain.NodeAt{
		{ID: "removed", Revision: nodes[0].Revision - 1}, {ID: "stranger", Revision: 1}, {ID: "lasting", Revision: nodes[2].Revision},
	}}); len(changes) != 0 {
		t.Errorf("changes of an expiry of no node = %+v, want none", changes)
	}
	mustEqual(t, "the revision after an expiry of no node", mustRead(t, registry).Revision(), before)

	expired := propose(t, registry, domain.Expire{Nodes: []domain.NodeAt{
		{ID: "down", Revision: nodes[1].Revision}, {ID: "lasting", Revision: nodes[2].Revision}, {ID: "removed", Revision: nodes[0].Revision},
	}})
	asleep := *nodes[1]
	asleep.State, asleep.ExpiredFrom, asleep.Revision = domain.Down, domain.Draining, before+1
	mustEqual(t, "the changes of the expiry", expired, []domain.Change{
		{Revision: before + 1, Effect: domain.Updated, Reason: domain.ByExpiry, Node: &asleep, Previous: nodes[1]},
		{Revision: before + 2, Effect: domain.Removed, Reason: domain.ByExpiry, Node: nodes[0], Previous: nodes[0]},
	})

	awake := *nodes[1]
	awake.Revision = before + 3
	revived := mustPropose(t, registry, domain.Revive{ID: "down"})
	mustEqual(t, "the change of the revival", revived,
		domain.Change{Revision: before + 3, Effect: domain.Updated, Reason: domain.ByRequest, Node: &awake, Previous: &asleep})
	again := mustPropose(t, registry, domain.Revive{ID: "down"})
	mustEqual(t, "the change of a second revival", again,
		domain.Change{Revision: before + 3, Effect: domain.Unchanged, Reason: domain.ByRequest, Node: &awake, Previous: &awake})
	var refusal *domain.Refusal
	if _, err := registry.Propose(within(t), domain.Revive{ID: "removed"}); !errors.Is(err, domain.ErrNoSuchNode) || !errors.As(err, &refusal) {
		t.Errorf("error of reviving a removed node = %v, want the refusal %v", err, domain.ErrNoSuchNode)
	}
	history, _ := mustRead(t, registry).Since(before)
	mustEqual(t, "history", history, append(expired, revived))
}
