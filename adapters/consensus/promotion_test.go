package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// runPromotions lets i carry out promotions until the test ends, and returns the use cases
// for adding instances.
func (i *instance) runPromotions(t *testing.T) *app.Cluster {
	t.Helper()
	c := app.NewCluster(app.ClusterConfig{
		Inquiry:     app.Inquiry{Self: ports.Identity{RaftID: i.config.ID}, Formats: i, Local: i, Peers: neighbours{}},
		Membership:  i,
		Promotions:  i,
		ReadIndexer: i,
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err := c.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// longTimeouts is for clusters whose leader must stay, even on a busy machine.
func longTimeouts(timing *Timing) {
	timing.HeartbeatTimeout, timing.ElectionTimeout = 2*time.Second, 2*time.Second
}

// mustBecome waits until i has this suffrage in its own membership.
func (i *instance) mustBecome(t *testing.T, suffrage domain.Suffrage) {
	t.Helper()
	i.eventually(t, "a "+string(suffrage), func(s ports.LocalState) bool {
		self, _ := s.Roster.Find(i.config.ID)
		return self.Suffrage == suffrage
	})
}

func noPromotions(s ports.LocalState) bool { return len(s.Promotions) == 0 }

func TestANewVoterIsOneWhenItHasCaughtUp(t *testing.T) {
	leader := startCluster(t, 1, func(config *instanceConfig) { config.timing = longTimeouts })[0]
	cluster := leader.runPromotions(t)
	for n := range 50 {
		register(t, leader, fmt.Sprintf("n%d", n))
	}
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), timing: longTimeouts})
	got, err := cluster.Add(within(t), voter(joining), false)
	if err != nil || got != voter(joining) {
		t.Fatalf("Add = %+v, %v, want the instance as asked", got, err)
	}
	if state, _ := joining.State(); state.View.Revision() != 50 {
		t.Errorf("revision of the new voter = %d, want 50", state.View.Revision())
	}
	leader.eventually(t, "done with the promotion", noPromotions)
}

// Writes go on while an instance that accepts no entries is to become a voter. It becomes
// one when it has them all.
func TestAnInstanceThatLagsIsNoVoterYet(t *testing.T) {
	hold := newEntryHold()
	leader := startCluster(t, 1, func(config *instanceConfig) {
		config.timing = longTimeouts
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, hold} }
	})[0]
	t.Cleanup(hold.release) // before the instances are stopped
	cluster := leader.runPromotions(t)
	register(t, leader, "before")
	hold.on.Store(true)
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), timing: longTimeouts})
	if err := addUntilStaged(t, cluster, leader, voter(joining)); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("Add of an instance that accepts nothing = %v, want ErrOutcomeUnknown", err)
	}
	change := register(t, leader, "meanwhile")
	state, _ := leader.State()
	if now, _ := state.Roster.Find("joining"); now.Suffrage != domain.Nonvoter || !slices.Equal(state.Promotions, []string{"joining"}) {
		t.Errorf("instance = %+v, promotions = %q, want a nonvoter to be promoted", now, state.Promotions)
	}
	hold.release()
	joining.mustBecome(t, domain.Voter)
	joining.waitForRevision(t, change.Revision)
	leader.eventually(t, "done with the promotion", noPromotions)
}

// addUntilStaged adds a voter, cancels the call when it is committed that wanted is a
// nonvoter at its address, and returns the error.
func addUntilStaged(t *testing.T, c *app.Cluster, leader *instance, wanted domain.Instance) error {
	t.Helper()
	ctx, giveUp := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := c.Add(ctx, wanted, false)
		answer <- err
	}()
	leader.eventually(t, "aware of the nonvoter at its address", func(s ports.LocalState) bool {
		now, _ := s.LastCommitted().Roster.Find(wanted.ID)
		return now.RaftAddress == wanted.RaftAddress && now.Suffrage == domain.Nonvoter
	})
	giveUp()
	return receive(t, answer, "the caller that gave up still waits")
}

// The leader stops between the nonvoter and the voter. In some cases all instances are also
// restarted then, from a snapshot or from the log.
func TestAPromotionOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	for name, timing := range map[string]func(*Timing){
		"in the log": nil,
		"in a snapshot": func(timing *Timing) {
			timing.SnapshotThreshold, timing.TrailingLogs, timing.SnapshotInterval = 4, 1, 5*time.Millisecond
		},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, all restarted: %v", name, restarted), func(t *testing.T) {
				t.Parallel()
				cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = timing })
				leader := cluster[0]
				joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), timing: timing})
				asLeft := voter(joining)
				asLeft.Suffrage = domain.Nonvoter
				// The leader records this before it promotes an instance.
				if err := leader.AddPromotion(within(t), "joining"); err != nil {
					t.Fatal(err)
				}
				mustAdd(t, leader, asLeft)
				for n := range 20 {
					register(t, leader, fmt.Sprintf("n%d", n))
				}
				leader.stop(t)
				left := cluster[1:]
				if restarted {
					for n, i := range cluster {
						i.stop(t)
						cluster[n] = restart(t, i, timing)
					}
					joining.stop(t)
					joining = restart(t, joining, timing)
					left = cluster
				}
				next := leaderOf(t, left)
				if state, _ := next.State(); !slices.Equal(state.Promotions, []string{"joining"}) {
					t.Fatalf("promotions known to the next leader = %q, want joining", state.Promotions)
				}
				if self, _ := mustFind(t, next, "joining"); self.Suffrage != domain.Nonvoter {
					t.Fatalf("instance before promotions run = %+v, want a nonvoter", self)
				}
				for _, i := range left {
					i.runPromotions(t)
				}
				joining.mustBecome(t, domain.Voter)
				leaderOf(t, left).eventually(t, "done with the promotion", noPromotions)
			})
		}
	}
}

func mustFind(t *testing.T, i *instance, id string) (domain.Instance, bool) {
	t.Helper()
	roster, err := i.Roster(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return roster.Find(id)
}

// The leader's own address changes without a moment in which it does not lead.
func TestTheLeaderMovesWhileItLeads(t *testing.T) {
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = longTimeouts })
	leader := cluster[0]
	c := leader.runPromotions(t)
	term, _ := leader.leads()
	// The leader answers at this address as well.
	other := domain.Instance{ID: leader.config.ID, RaftAddress: "localhost" + leader.raftAddress()[len("127.0.0.1"):], Suffrage: domain.Voter}
	instancesByAddress.Store(other.RaftAddress, leader)
	if got, err := c.Add(within(t), other, false); err != nil || got != other {
		t.Fatalf("Add = %+v, %v, want the instance as asked", got, err)
	}
	register(t, leader, "after")
	if now, leads := leader.leads(); !leads || now != term {
		t.Errorf("leading = %v in term %d, want true in term %d", leads, now, term)
	}
	if now, _ := mustFind(t, leader, leader.config.ID); now != other {
		t.Errorf("instance in the roster = %+v, want it as added", now)
	}
}

// A voter that lost its disk and comes back at another address is a nonvoter until it has
// caught up: it no longer has what it acknowledged.
func TestAVoterThatComesBackBlankIsANonvoterFirst(t *testing.T) {
	hold := newEntryHold()
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = longTimeouts
		if config.bootstrap {
			config.hooks.transport = func(inner transport) transport {
				return heartbeatsOnlyTo{heartbeatsOnly{inner, hold}, "instance-2"}
			}
		}
	})
	t.Cleanup(hold.release) // before the instances are stopped
	leader, lost := cluster[0], cluster[2]
	c := leader.runPromotions(t)
	change := register(t, leader, "a")
	lost.stop(t)
	hold.on.Store(true)
	blank := start(t, instanceConfig{id: lost.config.ID, directory: t.TempDir(), timing: longTimeouts})
	if err := addUntilStaged(t, c, leader, voter(blank)); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("Add of a blank instance that gets no entries = %v, want ErrOutcomeUnknown", err)
	}
	if now, _ := mustFind(t, leader, blank.config.ID); now.Suffrage != domain.Nonvoter || now.RaftAddress != blank.raftAddress() {
		t.Errorf("instance in the roster = %+v, want it as added", now)
	}
	hold.release()
	blank.mustBecome(t, domain.Voter)
	blank.waitForRevision(t, change.Revision)
}

// heartbeatsOnlyTo holds back only the entries to one instance.
type heartbeatsOnlyTo struct {
	heartbeatsOnly
	id raft.ServerID
}

func (h heartbeatsOnlyTo) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if id != h.id {
		return h.transport.AppendEntries(id, to, args, resp)
	}
	return h.heartbeatsOnly.AppendEntries(id, to, args, resp)
}
