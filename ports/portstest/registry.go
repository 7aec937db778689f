package portstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RunRegistry checks the contract of ports.Registry. Each test opens a subject of its own,
// which open closes with tb.Cleanup.
func RunRegistry(t *testing.T, open func(testing.TB) Subject) {
	tests := map[string]func(*testing.T, Subject){
		"a proposal is applied and reported":                  proposalIsReported,
		"a refusal changes nothing":                           refusalChangesNothing,
		"a read has every change answered before":             readHoldsAnswers,
		"a view does not change":                              viewDoesNotChange,
		"concurrent proposals and reads are linearizable":     concurrentCallsAreLinearizable,
		"a condition is decided when the command is applied":  conditionIsDecidedLate,
		"a context that has ended changes nothing":            endedContextDoesNothing,
		"a context that ends on the way gets no false answer": endingContextTellsTheTruth,
		"a batch makes all of its changes, in order":          batchIsCarriedOut,
		"a batch is refused whole":                            batchIsRefusedWhole,
		"a batch is seen whole or not at all":                 batchIsSeenWhole,
		"a node expires and is revived":                       nodeExpiresAndRevives,
		"a read here has every change answered before":        readHereHoldsAnswers,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	t.Run("a follower", func(t *testing.T) {
		if s := open(t); s.Follower != nil {
			t.Run("proposes and reads nothing", func(t *testing.T) { followerRefuses(t, s) })
			t.Run("reads here every change that the leader answered before", func(t *testing.T) { followerHoldsAnswers(t, s) })
			t.Run("reads here every change answered before, under load", func(t *testing.T) { followerHoldsAnswersUnderLoad(t, s) })
			t.Run("reads the changes of the former leader once it leads", func(t *testing.T) { successorHoldsAnswers(t, s) })
			t.Run("reads here the changes of its successor once it has handed over", func(t *testing.T) { predecessorHoldsAnswers(t, s) })
		}
	})
	t.Run("a follower without a leader reads nothing here", func(t *testing.T) {
		if s := open(t); s.StopLeader != nil {
			followerWithoutLeaderReadsNothing(t, s)
		}
	})
}

func proposalIsReported(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	wanted := cacheNode("a", 1)
	before := mustRead(t, registry).Revision()

	added := mustPropose(t, registry, domain.Register{Node: wanted})
	wanted.CreatedRevision, wanted.Revision = before+1, before+1
	mustEqual(t, "the change of a new node", added,
		domain.Change{Revision: before + 1, Effect: domain.Added, Reason: domain.ByRequest, Node: &wanted})

	heavier := wanted
	heavier.Weight, heavier.Revision = 2, before+2
	updated := mustPropose(t, registry, domain.Register{Node: heavier})
	mustEqual(t, "the change of another weight", updated,
		domain.Change{Revision: before + 2, Effect: domain.Updated, Reason: domain.ByRequest, Node: &heavier, Previous: &wanted})

	unchanged := mustPropose(t, registry, domain.Register{Node: heavier})
	mustEqual(t, "the change of the same node", unchanged,
		domain.Change{Revision: before + 2, Effect: domain.Unchanged, Reason: domain.ByRequest, Node: &heavier, Previous: &heavier})

	removed := mustPropose(t, registry, domain.Deregister{ID: "a"})
	mustEqual(t, "the change of a removal", removed,
		domain.Change{Revision: before + 3, Effect: domain.Removed, Reason: domain.ByRequest, Node: &heavier, Previous: &heavier})

	history, reaches := mustRead(t, registry).Since(before)
	if !reaches {
		t.Fatal("history does not reach back to the beginning")
	}
	mustEqual(t, "history", history, []domain.Change{added, updated, removed})
}

func refusalChangesNothing(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	mustPropose(t, registry, register("a", 1))
	last := mustPropose(t, registry, register("b", 1))
	before := show(mustRead(t, registry))
	taken := cacheNode("c", 1)
	taken.Address = cacheNode("a", 1).Address
	tests := map[string]struct {
		cmd     domain.Command
		err     error
		current *domain.CacheNode
	}{
		"a node with an address in use":        {domain.Register{Node: taken}, domain.ErrAddressInUse, nil},
		"an unknown node that is removed":      {domain.Deregister{ID: "c"}, domain.ErrNoSuchNode, nil},
		"a known node that must be absent":     {domain.Register{Node: cacheNode("b", 2), If: domain.Condition{Expect: domain.Absent}}, domain.ErrConditionFailed, last.Node},
		"an unknown node that must be present": {domain.Register{Node: cacheNode("c", 2), If: domain.Condition{Expect: domain.Present}}, domain.ErrConditionFailed, nil},
		"a node at another revision":           {domain.Deregister{ID: "b", If: domain.Condition{Expect: domain.AtRevision, Revision: last.Revision - 1}}, domain.ErrConditionFailed, last.Node},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			change, err := only(registry.Propose(within(t), test.cmd))
			var refusal *domain.Refusal
			if !errors.Is(err, test.err) || !errors.As(err, &refusal) {
				t.Fatalf("error = %v, want the refusal %v", err, test.err)
			}
			if errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("error = %v, want a refusal without an unknown outcome", err)
			}
			mustEqual(t, "the change", change, domain.Change{})
			mustEqual(t, "the current node of the refusal", refusal.Current, test.current)
			mustEqual(t, "the revision of the refusal", refusal.Revision, before.Revision)
			mustEqual(t, "the registry after the refusal", show(mustRead(t, registry)), before)
		})
	}
}

func readHoldsAnswers(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	for i := range 50 {
		change := mustPropose(t, registry, register("a", i))
		view := mustRead(t, registry)
		got, found := view.Node("a")
		if !found || view.Revision() != change.Revision {
			t.Fatalf("a read after revision %d was answered is at %d", change.Revision, view.Revision())
		}
		mustEqual(t, "the node that was read", got, change.Node)
	}
}

func viewDoesNotChange(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	mustPropose(t, registry, register("a", 1))
	mustPropose(t, registry, register("b", 1))
	view := mustRead(t, registry)
	before := show(view)
	mustPropose(t, registry, register("a", 2))
	mustPropose(t, registry, register("c", 1))
	mustPropose(t, registry, domain.Deregister{ID: "b"})
	mustEqual(t, "the view", show(view), before)
}

func concurrentCallsAreLinearizable(t *testing.T, s Subject) {
	const (
		proposers = 64
		readers   = 8
		each      = 10
	)
	registry := s.Leader.Registry
	first := mustRead(t, registry).Revision()
	ctx := within(t)

	var (
		proposing, reading sync.WaitGroup
		mu                 sync.Mutex
		revisions          []domain.Revision
	)
	stop := make(chan struct{})
	for p := range proposers {
		proposing.Go(func() {
			id := fmt.Sprintf("node%d", p)
			for i := range each {
				change, err := only(registry.Propose(ctx, register(id, i)))
				if err != nil {
					t.Errorf("propose: %v", err)
					return
				}
				mu.Lock()
				revisions = append(revisions, change.Revision)
				mu.Unlock()
				view, err := registry.Read(ctx)
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				if got, found := view.Node(id); !found || got.Revision != change.Revision || view.Revision() < change.Revision {
					t.Errorf("after revision %d of %s was answered, a read at revision %d has the node %+v", change.Revision, id, view.Revision(), got)
				}
			}
		})
	}
	for range readers {
		reading.Go(func() {
			var seen domain.Revision
			for {
				select {
				case <-stop:
					return
				default:
				}
				view, err := registry.Read(ctx)
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				if view.Revision() < seen {
					t.Errorf("a read went back from revision %d to %d", seen, view.Revision())
				}
				seen = view.Revision()
			}
		})
	}
	proposing.Wait()
	close(stop)
	reading.Wait()
	if t.Failed() {
		return
	}

	slices.Sort(revisions)
	for i, revision := range revisions {
		if want := first + 1 + domain.Revision(i); revision != want {
			t.Fatalf("next answered revision = %d, want %d: revisions are dense and unique", revision, want)
		}
	}
	view := mustRead(t, registry)
	if want := first + proposers*each; view.Revision() != want {
		t.Errorf("revision of the registry = %d, want %d", view.Revision(), want)
	}
	if history, reaches := view.Since(first); !reaches || len(history) != proposers*each {
		t.Errorf("changes in the history = %d, want %d", len(history), proposers*each)
	}
}

func conditionIsDecidedLate(t *testing.T, s Subject) {
	const rivals = 16
	registry, ctx := s.Leader.Registry, within(t)
	last := mustPropose(t, registry, register("a", 0))
	for round := range 5 {
		condition := domain.Condition{Expect: domain.AtRevision, Revision: last.Revision}
		changes, errs := make([]domain.Change, rivals), make([]error, rivals)
		var rivalry sync.WaitGroup
		for i := range rivals {
			rivalry.Go(func() {
				cmd := domain.Register{Node: cacheNode("a", 1+round*rivals+i), If: condition}
				changes[i], errs[i] = only(registry.Propose(ctx, cmd))
			})
		}
		rivalry.Wait()
		winners := 0
		for i, err := range errs {
			switch {
			case err == nil:
				winners++
				last = changes[i]
			case !errors.Is(err, domain.ErrConditionFailed):
				t.Fatalf("error of a rival = %v, want %v", err, domain.ErrConditionFailed)
			}
		}
		if winners != 1 {
			t.Fatalf("commands made at revision %d = %d, want 1", condition.Revision, winners)
		}
	}
}

func endedContextDoesNothing(t *testing.T, s Subject) {
	registry := s.Leader.Registry
	before := mustRead(t, registry).Revision()
	for range 20 {
		_, err := registry.Propose(ended(t), register("a", 1))
		if !errors.Is(err, context.Canceled) || errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Fatalf("Propose = %v, want %v", err, context.Canceled)
		}
	}
	if _, err := registry.Read(ended(t)); !errors.Is(err, context.Canceled) {
		t.Fatalf("Read = %v, want %v", err, context.Canceled)
	}
	if _, err := registry.ReadHere(ended(t)); !errors.Is(err, context.Canceled) {
		t.Fatalf("ReadHere = %v, want %v", err, context.Canceled)
	}
	// A proposal that had been sent in spite of its context would come before this one.
	if change := mustPropose(t, registry, register("b", 1)); change.Revision != before+1 {
		t.Errorf("revision of the next change = %d, want %d", change.Revision, before+1)
	}
}

func endingContextTellsTheTruth(t *testing.T, s Subject) {
	const proposals = 200
	registry := s.Leader.Registry
	mustPropose(t, registry, register("first", 1))
	outcomes := make([]error, proposals)
	var proposing sync.WaitGroup
	for i := range proposals {
		proposing.Go(func() {
			// Some contexts end before the proposal is sent, some while it is on its way,
			// some later.
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
			defer cancel()
			_, outcomes[i] = registry.Propose(ctx, register(fmt.Sprintf("node%d", i), 1))
		})
	}
	proposing.Wait()
	mustPropose(t, registry, register("last", 1)) // comes after all proposals that were sent
	view := mustRead(t, registry)
	for i, err := range outcomes {
		_, found := view.Node(fmt.Sprintf("node%d", i))
		switch {
		case errors.Is(err, ports.ErrOutcomeUnknown): // the node may exist or not
		case err == nil && !found:
			t.Errorf("node%d was answered, but does not exist", i)
		case err == nil:
		case !errors.Is(err, context.DeadlineExceeded):
			t.Errorf("node%d: error = %v, want %v", i, err, context.DeadlineExceeded)
		case found:
			t.Errorf("node%d exists, but Propose said that nothing happened", i)
		}
	}
}

func followerRefuses(t *testing.T, s Subject) {
	before := mustPropose(t, s.Leader.Registry, register("a", 1)).Revision
	if _, err := s.Follower.Registry.Propose(within(t), register("b", 1)); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Propose = %v, want %v", err, ports.ErrNotLeader)
	}
	if _, err := s.Follower.Registry.Read(within(t)); !errors.Is(err, ports.ErrNotLeader) {
		t.Errorf("Read = %v, want %v", err, ports.ErrNotLeader)
	}
	if view := mustRead(t, s.Leader.Registry); view.Revision() != before {
		t.Errorf("revision of the registry = %d, want %d", view.Revision(), before)
	}
}

func successorHoldsAnswers(t *testing.T, s Subject) {
	var last domain.Change
	for i := range 20 {
		last = mustPropose(t, s.Leader.Registry, register("a", 100+i))
	}
	if err := s.Leader.Leadership.HandOver(within(t), ""); err != nil {
		t.Fatalf("hand over: %v", err)
	}
	await(t, s.Follower.Local, "the successor leads", leading)
	view := mustRead(t, s.Follower.Registry)
	got, _ := view.Node("a")
	mustEqual(t, "the node that the successor reads", got, last.Node)
	if change := mustPropose(t, s.Follower.Registry, register("b", 1)); change.Revision != last.Revision+1 {
		t.Errorf("first revision of the successor = %d, want the one after %d", change.Revision, last.Revision)
	}
}

func leading(state ports.LocalState) bool { return state.Leading }
