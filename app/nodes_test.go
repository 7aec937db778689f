package app_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func spec(id string, weight int) domain.NodeSpec {
	return domain.NodeSpec{ID: id, Address: id + ".example:11211", Weight: &weight}
}

func TestNodes(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	nodes := newNodes(i)
	anything := domain.Condition{}

	added, err := nodes.Register(t.Context(), domain.NodeSpec{ID: "a", Address: "h:1"}, anything)
	if err != nil || added.Effect != domain.Added || added.Node.Pool != "default" || added.Node.Weight != 100 {
		t.Fatalf("Register = %+v, %v, want a new node in pool default with weight 100", added, err)
	}
	if _, err := nodes.Register(t.Context(), spec("a", 1), domain.Condition{Expect: domain.Absent}); !errors.Is(err, domain.ErrConditionFailed) {
		t.Errorf("Register with a condition that does not hold: error = %v, want %v", err, domain.ErrConditionFailed)
	}
	if _, err := nodes.Register(t.Context(), domain.NodeSpec{ID: "/"}, anything); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("Register of an invalid node: error = %v, want %v", err, domain.ErrInvalid)
	}
	if _, err := nodes.Deregister(t.Context(), "a", domain.Condition{Expect: domain.AtRevision, Revision: 9}); !errors.Is(err, domain.ErrConditionFailed) {
		t.Errorf("Deregister with a condition that does not hold: error = %v, want %v", err, domain.ErrConditionFailed)
	}
	if err := second(nodes.Batch(t.Context(), []domain.Edit{{Remove: new("b")}})); !errors.Is(err, domain.ErrNoSuchNode) {
		t.Errorf("Batch that removes an unknown node: error = %v, want %v", err, domain.ErrNoSuchNode)
	}
	if err := second(nodes.Batch(t.Context(), nil)); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("Batch without changes: error = %v, want %v", err, domain.ErrInvalid)
	}
	if view, err := nodes.View(t.Context(), ports.Read{}); err != nil || view.Revision() != 1 || view.Len() != 1 {
		t.Errorf("View = %d nodes at revision %d, %v, want 1 at 1", view.Len(), view.Revision(), err)
	}
	if removed, err := nodes.Deregister(t.Context(), "a", anything); err != nil || removed.Effect != domain.Removed || removed.Revision != 2 {
		t.Errorf("Deregister = %+v, %v, want a removal at revision 2", removed, err)
	}

	i.FailWith(ports.ErrNotLeader)
	for name, err := range map[string]error{
		"register":   second(nodes.Register(t.Context(), spec("a", 1), anything)),
		"deregister": second(nodes.Deregister(t.Context(), "a", anything)),
		"batch":      second(nodes.Batch(t.Context(), []domain.Edit{{Remove: new("a")}})),
		"view":       second(nodes.View(t.Context(), ports.Read{})),
		"follow":     second(nodes.Follow(t.Context(), nil, ports.Leader)),
	} {
		if !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("%s at a follower: error = %v, want %v", name, err, ports.ErrNotLeader)
		}
	}
	if err := second(nodes.Register(t.Context(), domain.NodeSpec{ID: "/"}, anything)); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("Register of an invalid node at a follower: error = %v, want %v", err, domain.ErrInvalid)
	}
}

func second[T any](_ T, err error) error { return err }

// write makes n separate changes.
func write(t *testing.T, registry ports.Registry, n int) {
	t.Helper()
	for range n {
		view, err := registry.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		weight := int(view.Revision()) + 1
		node, err := domain.NewCacheNode(spec("a", weight))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := registry.Propose(t.Context(), domain.Register{Node: node}); err != nil {
			t.Fatal(err)
		}
	}
}

func follow(t *testing.T, i *portstest.Instance, after ...domain.Revision) ports.NodeStream {
	t.Helper()
	var position *domain.Revision
	if len(after) > 0 {
		position = &after[0]
	}
	stream, err := newNodes(i).Follow(t.Context(), position, ports.Leader)
	if err != nil {
		t.Fatalf("follow: %v", err)
	}
	return stream
}

// told is what a stream delivers until there is nothing more: "snapshot N", the
// revisions of changes, and the error that ended it.
func told(stream ports.NodeStream) []string {
	var events []string
	for {
		delivery, _, err := stream.Next()
		switch {
		case err != nil:
			return append(events, err.Error())
		case delivery.Empty():
			return events
		case delivery.Snapshot != nil:
			events = append(events, fmt.Sprintf("snapshot %d", delivery.Snapshot.Revision()))
		}
		for _, change := range delivery.Changes {
			events = append(events, fmt.Sprint(change.Revision))
		}
	}
}

func mustTell(t *testing.T, stream ports.NodeStream, want ...string) {
	t.Helper()
	if got := told(stream); !reflect.DeepEqual(got, want) {
		t.Fatalf("stream delivered %q, want %q", got, want)
	}
}

func TestNodeStream(t *testing.T) {
	notLeader, closed := ports.ErrNotLeader.Error(), ports.ErrClosed.Error()
	stopLeading := func(s *ports.LocalState) { s.Leading, s.LeaderID = false, "" }
	lead := func(s *ports.LocalState) { s.Leading, s.LeaderID = true, "n1" }
	shut := func(s *ports.LocalState) { s.Closed = true }

	tests := map[string]func(t *testing.T, i *portstest.Instance){ // at revision 3
		"without a position a snapshot comes first, then the changes": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i)
			mustTell(t, stream, "snapshot 3")
			write(t, i, 2)
			mustTell(t, stream, "4", "5")
			mustTell(t, stream)
		},
		"a change between the opening and the first delivery is not lost": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i)
			write(t, i, 2)
			mustTell(t, stream, "snapshot 3", "4", "5")
		},
		"with a position the changes after it come": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 1)
			mustTell(t, stream, "2", "3")
			write(t, i, 1)
			mustTell(t, stream, "4")
		},
		"from revision 0, all changes come": func(t *testing.T, i *portstest.Instance) {
			mustTell(t, follow(t, i, 0), "1", "2", "3")
		},
		"at the latest revision nothing comes": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 3)
			mustTell(t, stream)
			write(t, i, 1)
			mustTell(t, stream, "4")
		},
		"a position ahead of the registry gets a snapshot": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 4)
			mustTell(t, stream, "snapshot 3")
			write(t, i, 1)
			mustTell(t, stream, "4")
		},
		"a position that history has left behind gets a snapshot": func(t *testing.T, i *portstest.Instance) {
			write(t, i, domain.HistoryLength)
			mustTell(t, follow(t, i, 2), "snapshot 10003")
		},
		"the oldest position that history reaches gets every change": func(t *testing.T, i *portstest.Instance) {
			write(t, i, domain.HistoryLength)
			events := told(follow(t, i, 3))
			if len(events) != domain.HistoryLength || events[0] != "4" || events[len(events)-1] != "10003" {
				t.Fatalf("stream delivered %d events, want %d, from 4 to 10003", len(events), domain.HistoryLength)
			}
		},
		"a subscriber that falls behind the history gets a snapshot": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i)
			mustTell(t, stream, "snapshot 3")
			write(t, i, domain.HistoryLength+1)
			mustTell(t, stream, "snapshot 10004")
			write(t, i, 1)
			mustTell(t, stream, "10005")
		},
		"it ends when leadership is lost": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i)
			mustTell(t, stream, "snapshot 3")
			i.Change(stopLeading)
			mustTell(t, stream, notLeader)
			mustTell(t, stream, notLeader)
		},
		"what was committed comes before the end": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i)
			write(t, i, 2)
			i.Change(stopLeading)
			mustTell(t, stream, "snapshot 3", "4", "5", notLeader)
		},
		"a snapshot comes before the end beyond the history": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 3)
			write(t, i, domain.HistoryLength+1)
			i.Change(stopLeading)
			mustTell(t, stream, "snapshot 10004", notLeader)
		},
		"the end is final, even when leadership comes back": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 3)
			i.Change(stopLeading)
			mustTell(t, stream, notLeader)
			i.Change(lead)
			write(t, i, 1)
			mustTell(t, stream, notLeader)
		},
		"a loss of leadership that nobody noticed does not end it": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 3)
			i.Change(stopLeading)
			i.Change(lead)
			write(t, i, 1)
			mustTell(t, stream, "4")
		},
		"it ends even if the next leader goes on writing": func(t *testing.T, i *portstest.Instance) {
			successor := i.NewFollower("n2", "h:2")
			stream := follow(t, i, 3)
			if err := i.HandOver(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			write(t, successor, 1)
			if delivery, _, err := stream.Next(); err != nil || len(delivery.Changes) != 1 {
				t.Fatalf("delivery = %+v, %v, want one change", delivery, err)
			}
			write(t, successor, 1)
			mustTell(t, stream, notLeader)
		},
		"it ends when the instance closes, after what was committed": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i)
			write(t, i, 1)
			i.Change(shut)
			mustTell(t, stream, "snapshot 3", "4", closed)
			mustTell(t, stream, closed)
		},
		"it ends with ErrClosed even without leadership": func(t *testing.T, i *portstest.Instance) {
			stream := follow(t, i, 3)
			i.Change(stopLeading)
			i.Change(shut)
			mustTell(t, stream, closed)
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i := portstest.NewInstance("n1", "h:1")
			write(t, i, 3)
			test(t, i)
		})
	}
}

func TestNodeStreamWakesAWaitingSubscriber(t *testing.T) {
	for what, happens := range map[string]func(t *testing.T, i *portstest.Instance){
		"a change": func(t *testing.T, i *portstest.Instance) { write(t, i, 1) },
		"the loss of leadership": func(_ *testing.T, i *portstest.Instance) {
			i.Change(func(s *ports.LocalState) { s.Leading = false })
		},
		"the end of the instance": func(_ *testing.T, i *portstest.Instance) {
			i.Change(func(s *ports.LocalState) { s.Closed = true })
		},
	} {
		t.Run(what, func(t *testing.T) {
			i := portstest.NewInstance("n1", "h:1")
			delivery, later, err := follow(t, i, 0).Next()
			if err != nil || !delivery.Empty() || isClosed(later) {
				t.Fatalf("delivery where nothing happened = %+v, %v, want a stream that waits", delivery, err)
			}
			happens(t, i)
			if !isClosed(later) {
				t.Error("a waiting subscriber was not woken")
			}
		})
	}
}

// The state of the instance may be behind the read that opened the stream.
func TestNodeStreamWaitsForAStateThatIsBehind(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	write(t, i, 2)
	behind, _ := i.State()
	write(t, i, 1)
	nodes := app.NewNodes(i, fixedLocal(behind), newLeases(i))
	stream, err := nodes.Follow(t.Context(), nil, ports.Leader)
	if err != nil {
		t.Fatal(err)
	}
	mustTell(t, stream, "snapshot 3")
	mustTell(t, stream)
}

func TestNodeStreamFollowsManyWriters(t *testing.T) {
	const (
		writers   = 4
		each      = 500
		followers = 4
	)
	i := portstest.NewInstance("n1", "h:1")
	nodes := newNodes(i)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				if _, err := nodes.Register(t.Context(), spec(fmt.Sprintf("w%d", w), n), domain.Condition{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range followers {
		all.Go(func() {
			stream, err := nodes.Follow(t.Context(), new(domain.Revision), ports.Leader)
			if err != nil {
				t.Error(err)
				return
			}
			for position := domain.Revision(0); position < writers*each; {
				delivery, later, err := stream.Next()
				if err != nil || delivery.Snapshot != nil {
					t.Errorf("after %d: snapshot %+v, %v, want changes", position, delivery.Snapshot, err)
					return
				}
				for _, change := range delivery.Changes {
					if position++; change.Revision != position {
						t.Errorf("revision = %d, want %d", change.Revision, position)
						return
					}
				}
				if delivery.Empty() {
					<-later
				}
			}
		})
	}
	all.Wait()
}

func TestFollowWithAnEndedContext(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if stream, err := newNodes(i).Follow(ctx, nil, ports.Leader); !errors.Is(err, context.Canceled) || stream != nil {
		t.Errorf("Follow = %v, %v, want %v", stream, err, context.Canceled)
	}
}
