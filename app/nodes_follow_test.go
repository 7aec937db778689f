package app_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

var elsewhere = []ports.Source{ports.Here, ports.Stale}

func followAt(t *testing.T, i *portstest.Instance, source ports.Source, after ...domain.Revision) ports.NodeStream {
	t.Helper()
	var position *domain.Revision
	if len(after) > 0 {
		position = &after[0]
	}
	stream, err := newNodes(i).Follow(t.Context(), position, source)
	if err != nil {
		t.Fatalf("follow from source %d: %v", source, err)
	}
	return stream
}

func mustHandOver(t *testing.T, i *portstest.Instance) {
	t.Helper()
	if err := i.HandOver(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
}

func TestFollowFromEachSource(t *testing.T) {
	tests := map[string]struct {
		given               func(*ports.LocalState)
		leader, here, stale error
	}{
		"a follower opens streams, except as the leader":  {leader: ports.ErrNotLeader},
		"without a leader it follows its own state":       {given: leaderless, leader: ports.ErrNotLeader, here: ports.ErrNoLeader},
		"a follower that has not caught up opens none":    {given: starting, leader: ports.ErrNotLeader, stale: ports.ErrNotCaughtUp},
		"a follower that shuts down opens none":           {given: shut, leader: ports.ErrClosed, here: ports.ErrClosed, stale: ports.ErrClosed},
		"the leader opens streams from every source":      {given: func(s *ports.LocalState) { s.Leading, s.LeaderID = true, "n2" }},
		"the leader opens its own whatever is said of it": {given: func(s *ports.LocalState) { s.Leading = true; leaderless(s); cutOff(s) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			if test.given != nil {
				p.follower.Change(test.given)
			}
			for source, want := range map[ports.Source]error{ports.Leader: test.leader, ports.Here: test.here, ports.Stale: test.stale} {
				stream, err := newNodes(p.follower).Follow(t.Context(), nil, source)
				if !errors.Is(err, want) || (err == nil) != (want == nil) || (err == nil) != (stream != nil) {
					t.Errorf("Follow from source %d = %v, %v, want error %v", source, stream, err, want)
				}
			}
		})
	}
}

func TestFollowAtAFollower(t *testing.T) {
	cut, closed := ports.ErrCutOff.Error(), ports.ErrClosed.Error()
	tests := map[string]func(t *testing.T, p pair, source ports.Source){
		"it delivers what the leader's stream delivers": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source)
			mustTell(t, stream, "snapshot 3")
			write(t, p.leader, 2)
			mustTell(t, stream, "4", "5")
			mustTell(t, followAt(t, p.follower, source, 2), "3", "4", "5")
			mustTell(t, followAt(t, p.follower, source, 5))
		},
		"it survives winning and losing leadership": func(t *testing.T, p pair, source ports.Source) {
			stream, old := followAt(t, p.follower, source, 3), followAt(t, p.leader, source, 3)
			mustHandOver(t, p.leader)
			mustTell(t, stream)
			write(t, p.follower, 2)
			mustTell(t, stream, "4", "5")
			mustTell(t, old, "4", "5")
			mustHandOver(t, p.follower)
			write(t, p.leader, 1)
			mustTell(t, stream, "6")
			mustTell(t, old, "6")
		},
		"it survives the loss of the leader": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			p.follower.Change(leaderless)
			mustTell(t, stream)
			write(t, p.leader, 1)
			mustTell(t, stream, "4")
		},
		"it ends when contact with the leader is lost": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			mustTell(t, stream)
			p.follower.Change(cutOff)
			mustTell(t, stream, cut)
			mustTell(t, stream, cut)
		},
		"pending changes are delivered before the end": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source)
			write(t, p.leader, 2)
			p.follower.Change(cutOff)
			mustTell(t, stream, "snapshot 3", "4", "5", cut)
		},
		"a snapshot is delivered before the end beyond the history": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			write(t, p.leader, domain.HistoryLength+1)
			p.follower.Change(cutOff)
			mustTell(t, stream, "snapshot 10004", cut)
		},
		"the end is final, even when contact is regained": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			p.follower.Change(cutOff)
			mustTell(t, stream, cut)
			p.follower.Change(inTouch)
			write(t, p.leader, 1)
			mustTell(t, stream, cut)
		},
		"it ends even if changes go on": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			write(t, p.leader, 1)
			p.follower.Change(cutOff)
			if delivery, _, err := stream.Next(); err != nil || len(delivery.Changes) != 1 {
				t.Fatalf("delivery = %+v, %v, want one change", delivery, err)
			}
			write(t, p.leader, 1)
			mustTell(t, stream, cut)
		},
		"a loss of contact that nobody noticed does not end it": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			p.follower.Change(cutOff)
			p.follower.Change(inTouch)
			write(t, p.leader, 1)
			mustTell(t, stream, "4")
		},
		"a stream opened without contact delivers what there is, and ends": func(t *testing.T, p pair, source ports.Source) {
			p.follower.Change(cutOff)
			mustTell(t, followAt(t, p.follower, source), "snapshot 3", cut)
			mustTell(t, followAt(t, p.follower, source, 1), "2", "3", cut)
			mustTell(t, followAt(t, p.follower, source, 3), cut)
		},
		"it ends when the instance closes, after what was committed": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source)
			write(t, p.leader, 1)
			p.follower.Change(shut)
			mustTell(t, stream, "snapshot 3", "4", closed)
		},
		"it ends with ErrClosed even without contact": func(t *testing.T, p pair, source ports.Source) {
			stream := followAt(t, p.follower, source, 3)
			p.follower.Change(func(s *ports.LocalState) { cutOff(s); shut(s) })
			mustTell(t, stream, closed)
		},
		"a waiting subscriber is woken when contact is lost": func(t *testing.T, p pair, source ports.Source) {
			_, later, err := followAt(t, p.follower, source, 3).Next()
			if err != nil || isClosed(later) {
				t.Fatalf("Next = %v, want a stream that waits", err)
			}
			p.follower.Change(cutOff)
			if !isClosed(later) {
				t.Error("a waiting subscriber was not woken when contact with the leader was lost")
			}
		},
	}
	for name, test := range tests {
		for _, source := range elsewhere {
			t.Run(name+map[ports.Source]string{ports.Here: ", here", ports.Stale: ", stale"}[source], func(t *testing.T) {
				test(t, newPair(t), source)
			})
		}
	}
}

// A slow subscriber must keep only its delivery in memory, not the whole history.
func TestADeliveryIsBounded(t *testing.T) {
	p := newPair(t)
	stream := followAt(t, p.leader, ports.Leader, 3)
	const written = 200
	write(t, p.leader, written)
	mustHandOver(t, p.leader)
	deliveries := 0
	for position := domain.Revision(3); ; deliveries++ {
		delivery, _, err := stream.Next()
		if err != nil {
			if position < 3+written || !errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("stream ended after %d with %v, want after at least %d with %v", position, err, 3+written, ports.ErrNotLeader)
			}
			break
		}
		if len(delivery.Changes) == 0 || cap(delivery.Changes) > 100 || delivery.Revision < 3+written {
			t.Fatalf("delivery after %d has %d changes in an array of %d at revision %d, want at most 100 of %d", position, len(delivery.Changes), cap(delivery.Changes), delivery.Revision, 3+written)
		}
		for _, change := range delivery.Changes {
			if position++; change.Revision != position {
				t.Fatalf("change = %d, want %d", change.Revision, position)
			}
		}
		write(t, p.follower, 1) // behind the end, which is there
	}
	if deliveries < 3 {
		t.Errorf("deliveries = %d, want at least 3", deliveries)
	}
}

// The stream of the leader depends on leadership, not on contact with a leader.
func TestTheLeadersStreamSurvivesALossOfContact(t *testing.T) {
	p := newPair(t)
	stream := followAt(t, p.leader, ports.Leader, 3)
	p.leader.Change(cutOff)
	write(t, p.leader, 1)
	mustTell(t, stream, "4")
	mustHandOver(t, p.leader)
	mustTell(t, stream, ports.ErrNotLeader.Error())
}

// A position that this instance has not reached most likely comes from another one
// that has.
func TestStaleFollowFromAPositionAhead(t *testing.T) {
	// The follower's own state stays at 3; the registry is at 5.
	behind := func(t *testing.T) (*app.Nodes, *tapped, pair) {
		p := newPair(t)
		frozen, _ := p.follower.State()
		local := &tapped{Instance: p.follower, frozen: &frozen}
		write(t, p.leader, 2)
		return app.NewNodes(p.follower, local, newLeases(p.follower)), local, p
	}
	follow := func(t *testing.T, ctx context.Context, nodes *app.Nodes, after domain.Revision) ports.NodeStream {
		t.Helper()
		stream, err := nodes.Follow(ctx, &after, ports.Stale)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	t.Run("goes on if the leader has reached it", func(t *testing.T) {
		nodes, local, p := behind(t)
		stream, at4 := follow(t, t.Context(), nodes, 5), follow(t, t.Context(), nodes, 4)
		mustTell(t, stream)
		mustTell(t, at4, "5")
		write(t, p.leader, 1)
		mustTell(t, stream) // its own state is still behind
		local.tap(func(r *tapped) { r.frozen = nil })
		mustTell(t, stream, "6")
		mustTell(t, at4, "6")
	})
	t.Run("begins with a snapshot of the leader's state if the leader has not reached it", func(t *testing.T) {
		nodes, local, _ := behind(t)
		stream := follow(t, t.Context(), nodes, 9)
		mustTell(t, stream, "snapshot 5")
		mustTell(t, stream)
		local.tap(func(r *tapped) { r.frozen = nil })
		mustTell(t, stream)
	})
	t.Run("begins with a snapshot of its own state without a leader", func(t *testing.T) {
		nodes, local, p := behind(t)
		p.follower.Change(leaderless)
		stream := follow(t, t.Context(), nodes, 5)
		mustTell(t, stream, "snapshot 3")
		local.tap(func(r *tapped) { r.frozen = nil })
		mustTell(t, stream, "4", "5")
	})
	t.Run("asks nobody if the position is not ahead", func(t *testing.T) {
		state, _ := newPair(t).leader.State()
		nodes := app.NewNodes(nil, fixedLocal(state), nil)
		mustTell(t, follow(t, t.Context(), nodes, 3))
		mustTell(t, follow(t, t.Context(), nodes, 1), "2", "3")
	})
}
