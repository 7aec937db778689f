package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// stateOf returns the bytes of the snapshot that an instance would make.
func stateOf(t *testing.T, n *localState) []byte {
	t.Helper()
	return snapshotOf(t, codec.Snapshot{View: n.View, ClusterID: n.ClusterID, Applied: n.Applied, OpenTerm: n.openTerm})
}

// mustBeAlike waits until all instances have applied what the leader among them has
// committed, and compares everything that they hold.
func mustBeAlike(t *testing.T, all ...*instance) {
	t.Helper()
	var goal uint64
	until(t, "an instance leads", func() bool {
		var err error
		goal, err = leaderOf(t, all).ReadIndex(within(t))
		return err == nil
	})
	states := make([]*localState, len(all))
	until(t, "all instances have applied the same entries", func() bool {
		alike := true
		for n, i := range all {
			states[n] = i.state.read()
			alike = alike && states[n].Applied >= goal && states[n].Applied == states[0].Applied
		}
		return alike
	})
	want := stateOf(t, states[0])
	for n, got := range states {
		if !bytes.Equal(stateOf(t, got), want) {
			t.Errorf("after entry %d, state of %s = %+v, term opened in %d;\nwant that of %s = %+v, term opened in %d", got.Applied,
				all[n].config.ID, domaintest.ContentsOf(got.View), got.openTerm, all[0].config.ID, domaintest.ContentsOf(states[0].View), states[0].openTerm)
		}
	}
}

// modelRun proposes random commands to a cluster, and applies the same commands to a model
// of the registry.
type modelRun struct {
	*testing.T
	rand    *rand.Rand
	cluster []*instance
	model   *domain.Registry // nil once the outcome of a command is unknown
	told    map[string]int   // commands that did something, by kind
	// restored counts, for each instance, the snapshots that it was sent or started from.
	restored map[string]*atomic.Int64
}

// frequentSnapshots makes an instance take snapshots all the time and keep next to no log.
func frequentSnapshots(timing *Timing) {
	timing.SnapshotThreshold, timing.TrailingLogs, timing.SnapshotInterval = 8, 2, 5*time.Millisecond
}

// restoreCounter is a state machine that counts how often it was restored.
type restoreCounter struct {
	*machine
	restored *atomic.Int64
}

func (c restoreCounter) Restore(snapshot io.ReadCloser) error {
	c.restored.Add(1)
	return c.machine.Restore(snapshot)
}

func (r *modelRun) start(config instanceConfig) *instance {
	if r.restored[config.id] == nil {
		r.restored[config.id] = &atomic.Int64{}
	}
	config.timing = frequentSnapshots
	config.hooks.fsm = func(m *machine) raft.FSM { return restoreCounter{m, r.restored[config.id]} }
	return start(r, config)
}

func (r *modelRun) restart(which int) {
	old := r.cluster[which]
	old.stop(r)
	r.cluster[which] = r.start(instanceConfig{id: old.config.ID, directory: old.config.Directory, address: old.raftAddress()})
}

// applyRandom proposes that many random commands to the current leader, and compares the
// answers with the model's.
func (r *modelRun) applyRandom(commands int) {
	r.Helper()
	for range commands {
		cmd, answers, err := r.propose()
		kind := fmt.Sprintf("%T", cmd)
		if errors.Is(err, ports.ErrOutcomeUnknown) {
			r.Logf("the outcome of a %s is unknown: %v", kind, err)
			r.model = nil
			continue
		}
		for _, change := range answers {
			if change.Effect != domain.Unchanged {
				r.told[kind]++
			}
		}
		if r.model != nil {
			want := domaintest.AnswerOf(r.model.Apply(cmd))
			mustEqual(r, "the answer to a "+kind, domaintest.AnswerOf(answers, err), want)
		}
	}
}

func (r *modelRun) propose() (domain.Command, []domain.Change, error) {
	r.Helper()
	ctx := within(r)
	for {
		leader := leaderOf(r, r.cluster)
		view, err := leader.Read(ctx)
		if errors.Is(err, ports.ErrNotLeader) {
			continue
		} else if err != nil {
			r.Fatal(err)
		}
		cmd := rapid.Custom(func(t *rapid.T) domain.Command { return domaintest.CrossingCommand(t, view) }).Example(r.rand.Int())
		changes, err := leader.Propose(ctx, cmd)
		if !errors.Is(err, ports.ErrNotLeader) {
			return cmd, changes, err
		}
	}
}

func (r *modelRun) compare(when string) {
	r.Helper()
	mustBeAlike(r.T, r.cluster...)
	state, _ := r.cluster[0].State()
	if r.model != nil {
		mustEqual(r, "the registry "+when, domaintest.ContentsOf(state.View), domaintest.ContentsOf(r.model.View()))
	}
	// A read has the same result at each instance.
	for _, i := range r.cluster {
		view := mustReadHere(r.T, i)
		mustEqual(r, "the registry "+when+" as read at "+i.config.ID, domaintest.ContentsOf(view), domaintest.ContentsOf(state.View))
	}
}

// Instances hold the same state to the last byte, however they came by it: entry by entry,
// from their disk, from a snapshot of their own or from another instance's.
func TestInstancesAreAlikeThroughRestartsAndSnapshots(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &modelRun{
		T: t, rand: rand.New(rand.NewPCG(seed, 0)), model: domain.NewRegistry(),
		told: map[string]int{}, restored: map[string]*atomic.Int64{},
	}
	join := func(id string) {
		joining := r.start(instanceConfig{id: id, directory: t.TempDir()})
		addVoter(t, leaderOf(t, r.cluster), joining)
		r.cluster = append(r.cluster, joining)
	}
	r.cluster = []*instance{r.start(instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})}
	r.cluster[0].eventually(t, "leading", leading)
	join("b")
	r.applyRandom(150)
	until(t, "the log no longer has its first entry", func() bool {
		first, err := r.cluster[0].store.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		return first > 1
	})
	join("c") // with an empty directory
	r.applyRandom(20)
	r.compare("after an instance has joined")
	if r.restored["c"].Load() == 0 {
		t.Error("the instance was sent no snapshot")
	}
	for round := range 6 {
		which := r.rand.IntN(len(r.cluster))
		r.restart(which)
		r.applyRandom(10 + r.rand.IntN(40))
		if round%2 == 1 {
			r.compare("after a restart")
		}
	}
	for which := range r.cluster {
		r.cluster[which].stop(t)
	}
	for which := range r.cluster {
		r.restart(which)
	}
	r.compare("after a restart of all instances")
	r.applyRandom(20)
	r.compare("at the end")
	for _, kind := range []string{"domain.Register", "domain.Deregister", "domain.Batch", "domain.Expire"} {
		if r.told[kind] == 0 {
			t.Errorf("no %s had an effect: %v", kind, r.told)
		}
	}
	if r.model == nil {
		t.Log("the outcome of a command was unknown, so the model was not compared to the end")
	}
}
