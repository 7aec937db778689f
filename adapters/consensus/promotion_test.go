package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// promotes lets i promote whoever is to be promoted, as long as the test runs,
// and gives the use cases of that.
func (i *instance) promotes(t *testing.T) *app.Cluster {
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

// patiently is for clusters whose leader is to stay, however busy the machine is.
func patiently(timing *Timing) {
	timing.HeartbeatTimeout, timing.ElectionTimeout = 2*time.Second, 2*time.Second
}

// becomes waits until i has itself in its membership with a suffrage.
func (i *instance) becomes(t *testing.T, suffrage domain.Suffrage) {
	t.Helper()
	i.eventually(t, "a "+string(suffrage), func(s ports.LocalState) bool {
		self, _ := s.Roster.Find(i.config.ID)
		return self.Suffrage == suffrage
	})
}

func nobodyIsWanted(s ports.LocalState) bool { return len(s.Promotions) == 0 }

func TestANewVoterIsOneWhenItHasCaughtUp(t *testing.T) {
	leader := startCluster(t, 1, func(config *instanceConfig) { config.timing = patiently })[0]
	cluster := leader.promotes(t)
	for n := range 50 {
		register(t, leader, fmt.Sprintf("n%d", n))
	}
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), timing: patiently})
	got, err := cluster.Add(within(t), voter(joining), false)
	if err != nil || got != voter(joining) {
		t.Fatalf("%+v, %v", got, err)
	}
	if state, _ := joining.State(); state.View.Revision() != 50 {
		t.Errorf("it is a voter at revision %d", state.View.Revision())
	}
	leader.eventually(t, "done with it", nobodyIsWanted)
}

// Writes go on while one that takes nothing is to be a voter; it is one when it
// has taken all.
func TestAnInstanceThatLagsIsNoVoterYet(t *testing.T) {
	through := make(chan struct{})
	var holdsBack atomic.Bool
	leader := startCluster(t, 1, func(config *instanceConfig) {
		config.timing = patiently
		config.hooks.transport = func(inner transport) transport { return heartbeatsOnly{inner, &holdsBack, through} }
	})[0]
	letThrough := sync.OnceFunc(func() { close(through) })
	t.Cleanup(letThrough) // before the instances are stopped
	cluster := leader.promotes(t)
	register(t, leader, "before")
	holdsBack.Store(true)
	joining := start(t, instanceConfig{id: "joining", directory: t.TempDir(), timing: patiently})
	if err := addedUntilStaged(t, cluster, leader, voter(joining)); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("it takes nothing, and the answer is %v", err)
	}
	change := register(t, leader, "meanwhile")
	state, _ := leader.State()
	if now, _ := state.Roster.Find("joining"); now.Suffrage != domain.Nonvoter || !slices.Equal(state.Promotions, []string{"joining"}) {
		t.Errorf("it is %+v, and to be promoted are %q", now, state.Promotions)
	}
	letThrough()
	joining.becomes(t, domain.Voter)
	joining.arrives(t, change.Revision)
	leader.eventually(t, "done with it", nobodyIsWanted)
}

// addedUntilStaged adds a voter, gives up when it has become a nonvoter there, and tells
// what the answer was.
func addedUntilStaged(t *testing.T, c *app.Cluster, leader *instance, wanted domain.Instance) error {
	t.Helper()
	ctx, giveUp := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() {
		_, err := c.Add(ctx, wanted, false)
		answer <- err
	}()
	leader.eventually(t, "it is a nonvoter there", func(s ports.LocalState) bool {
		now, _ := s.Roster.Find(wanted.ID)
		return now.RaftAddress == wanted.RaftAddress && now.Suffrage == domain.Nonvoter
	})
	giveUp()
	return receive(t, answer, "who gave up waits on")
}

// A leader ends between the nonvoter and the voter, and everybody is started
// again in between, from a snapshot or from the log.
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
				// What the leader does before it promotes anybody.
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
						cluster[n] = again(t, i, timing)
					}
					joining.stop(t)
					joining = again(t, joining, timing)
					left = cluster
				}
				next := leaderOf(t, left)
				if state, _ := next.State(); !slices.Equal(state.Promotions, []string{"joining"}) {
					t.Fatalf("the next leader knows of %q", state.Promotions)
				}
				if self, _ := mustFind(t, next, "joining"); self.Suffrage != domain.Nonvoter {
					t.Fatalf("nobody promotes anybody here, and it is %+v", self)
				}
				for _, i := range left {
					i.promotes(t)
				}
				joining.becomes(t, domain.Voter)
				leaderOf(t, left).eventually(t, "done with it", nobodyIsWanted)
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

// The address of the leader itself is moved without a moment at which it does not
// lead.
func TestTheLeaderMovesWhileItLeads(t *testing.T) {
	cluster := startCluster(t, 3, func(config *instanceConfig) { config.timing = patiently })
	leader := cluster[0]
	c := leader.promotes(t)
	term, _ := leader.leads()
	// It answers there as well.
	other := domain.Instance{ID: leader.config.ID, RaftAddress: "localhost" + leader.raftAddress()[len("127.0.0.1"):], Suffrage: domain.Voter}
	instancesByAddress.Store(other.RaftAddress, leader)
	if got, err := c.Add(within(t), other, false); err != nil || got != other {
		t.Fatalf("%+v, %v", got, err)
	}
	register(t, leader, "after")
	if now, leads := leader.leads(); !leads || now != term {
		t.Errorf("leading is %v in term %d, after term %d", leads, now, term)
	}
	if now, _ := mustFind(t, leader, leader.config.ID); now != other {
		t.Errorf("it is %+v", now)
	}
}

// A voter whose disk was lost, and that comes back at another address, is a
// nonvoter until it has caught up again: what it acknowledged is gone.
func TestAVoterThatComesBackBlankIsANonvoterFirst(t *testing.T) {
	through := make(chan struct{})
	var holdsBack atomic.Bool
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.timing = patiently
		if config.bootstrap {
			config.hooks.transport = func(inner transport) transport {
				return heartbeatsTo{heartbeatsOnly{inner, &holdsBack, through}, "instance-2"}
			}
		}
	})
	letThrough := sync.OnceFunc(func() { close(through) })
	t.Cleanup(letThrough) // before the instances are stopped
	leader, lost := cluster[0], cluster[2]
	c := leader.promotes(t)
	change := register(t, leader, "a")
	lost.stop(t)
	holdsBack.Store(true)
	blank := start(t, instanceConfig{id: lost.config.ID, directory: t.TempDir(), timing: patiently})
	if err := addedUntilStaged(t, c, leader, voter(blank)); !errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Fatalf("it has nothing, and the answer is %v", err)
	}
	if now, _ := mustFind(t, leader, blank.config.ID); now.Suffrage != domain.Nonvoter || now.RaftAddress != blank.raftAddress() {
		t.Errorf("it is %+v", now)
	}
	letThrough()
	blank.becomes(t, domain.Voter)
	blank.arrives(t, change.Revision)
}

// heartbeatsTo holds back only what goes to one instance.
type heartbeatsTo struct {
	heartbeatsOnly
	id raft.ServerID
}

func (h heartbeatsTo) AppendEntries(id raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if id != h.id {
		return h.transport.AppendEntries(id, to, args, resp)
	}
	return h.heartbeatsOnly.AppendEntries(id, to, args, resp)
}
