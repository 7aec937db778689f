package faults

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// field is a cluster under load, with the methods that nemeses use to disturb it.
type field struct {
	*harness.Cluster
	t           testing.TB
	network     *harness.Network
	random      *rand.Rand
	load        *load
	table       *gaps
	rounds      int
	stopBurning func() // ends the load that starves an instance

	mu        sync.Mutex
	disturbed map[string][]span // see evidence
	injected  int
}

func newField(t testing.TB, options harness.Options, d density, seed uint64) *field {
	t.Helper()
	options.Build.Plain = true // the race detector would distort what is measured
	f := &field{
		Cluster:   harness.Start(t, options),
		t:         t,
		network:   options.Network,
		random:    rand.New(rand.NewPCG(seed, 0)),
		disturbed: map[string][]span{},
	}
	for _, i := range f.Instances {
		// An instance that returns with an empty directory must not bootstrap a new cluster.
		i.Flags = slices.DeleteFunc(i.Flags, func(flag string) bool { return flag == "--bootstrap_raft_cluster" })
	}
	f.load = newLoad(t, f.Cluster, d)
	registered := f.list().Revision
	for _, stream := range f.load.followed {
		stream.Await(t, registered)
		stream.Drain()
	}
	return f
}

// others returns all instances but one.
func (f *field) others(one *harness.Instance) []*harness.Instance {
	return slices.DeleteFunc(slices.Clone(f.Instances), func(i *harness.Instance) bool { return i == one })
}

// shuffled returns the instances that do not lead, in an order that follows from the seed.
func (f *field) shuffled() []*harness.Instance {
	f.t.Helper()
	others := f.others(f.Leader())
	f.random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return others
}

// follower returns an instance that does not lead.
func (f *field) follower() *harness.Instance { f.t.Helper(); return f.shuffled()[0] }

// pass waits for d: the length of an outage.
func (f *field) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.t.Context().Done():
	}
}

// inject counts a fault. From now on the instances are disturbed.
func (f *field) inject(instances ...*harness.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.injected++
	for _, i := range instances {
		f.disturbed[i.Application] = append(f.disturbed[i.Application], span{from: time.Now()})
	}
}

// lift ends the disturbance of the instances that inject began.
func (f *field) lift(instances ...*harness.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range instances {
		spans := f.disturbed[i.Application]
		spans[len(spans)-1].to = time.Now()
	}
}

// kill ends instances with SIGKILL, all at the same time.
func (f *field) kill(instances ...*harness.Instance) {
	f.t.Helper()
	f.inject(instances...)
	for _, i := range instances {
		i.BeginKill()
	}
	for _, i := range instances {
		i.AwaitExit()
	}
}

// stop ends an instance with SIGTERM.
func (f *field) stop(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	i.Stop()
}

// restart starts instances whose process has ended.
func (f *field) restart(instances ...*harness.Instance) {
	f.t.Helper()
	for _, i := range instances {
		i.Launch()
	}
	for _, i := range instances {
		i.AwaitServing()
	}
	f.lift(instances...)
}

// pause suspends an instance with SIGSTOP.
func (f *field) pause(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	i.Pause()
}

func (f *field) resume(i *harness.Instance) {
	f.t.Helper()
	i.Resume()
	f.lift(i)
}

// drop drops all packets from senders to receivers.
func (f *field) drop(senders, receivers []*harness.Instance) {
	f.t.Helper()
	f.inject()
	for _, from := range senders {
		for _, to := range receivers {
			f.network.Drop(from.Host, to.Host)
		}
	}
}

// cut drops all packets between two groups.
func (f *field) cut(one, other []*harness.Instance) {
	f.t.Helper()
	f.drop(one, other)
	f.drop(other, one)
}

// cutFromClients drops all packets between an instance and the clients.
func (f *field) cutFromClients(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	f.network.Cut([]int{0}, []int{i.Host})
}

// heal lets all packets pass again. Lost data is retransmitted after a while: the
// kernel's retransmission timeout may have grown as long as the cut lasted.
func (f *field) heal() {
	f.t.Helper()
	f.network.Heal()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, spans := range f.disturbed {
		if last := &spans[len(spans)-1]; last.to.IsZero() {
			last.to = time.Now().Add(time.Since(last.from))
		}
	}
}

// handOver makes an instance the leader.
func (f *field) handOver(to *harness.Instance) {
	f.t.Helper()
	f.inject()
	harness.Eventually(f.t, "leadership is handed to "+to.ID, func() error {
		_, err := to.RaftHandOver(f.t.Context(), to.ID)
		return err
	})
}

// remove removes an instance from the raft cluster.
func (f *field) remove(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	through := f.others(i)[0]
	harness.Eventually(f.t, i.ID+" is removed", func() error {
		err := through.RaftRemove(f.t.Context(), i.ID)
		if problem := new(harness.Problem); errors.As(err, &problem) && problem.Answer.Status == http.StatusNotFound {
			return nil // an earlier attempt removed it
		}
		return err
	})
}

// addAgain clears the directory of a removed instance and adds the instance.
func (f *field) addAgain(i *harness.Instance) {
	f.t.Helper()
	i.Kill()
	i.Wipe()
	i.Start()
	f.setSuffrage(i, "voter")
	f.lift(i)
}

// setSuffrage adds an instance with the given suffrage, or changes its suffrage.
func (f *field) setSuffrage(i *harness.Instance, suffrage string) {
	f.t.Helper()
	f.inject()
	member := i.Member()
	member.Suffrage = suffrage
	through := f.others(i)[0]
	harness.Eventually(f.t, i.ID+" becomes a "+suffrage, func() error { return through.RaftAdd(f.t.Context(), member) })
}
