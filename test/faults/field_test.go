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

// field is a cluster under load, and what a nemesis can do to it.
type field struct {
	*harness.Cluster
	t       testing.TB
	network *harness.Network
	random  *rand.Rand
	load    *load
	table   *gaps
	rounds  int
	quench  func() // ends what starves an instance

	mu        sync.Mutex
	disturbed map[string][]span // see evidence; a span that has no end yet goes on
	injected  int
}

func newField(t testing.TB, options harness.Options, d density, seed uint64) *field {
	t.Helper()
	options.Build.Plain = true // what is measured is not the race detector
	f := &field{
		Cluster:   harness.Start(t, options),
		t:         t,
		network:   options.Network,
		random:    rand.New(rand.NewPCG(seed, 0)),
		disturbed: map[string][]span{},
	}
	for _, i := range f.Instances {
		// Who comes back with an empty directory must not begin a cluster of its own.
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

// others are all but one.
func (f *field) others(one *harness.Instance) []*harness.Instance {
	return slices.DeleteFunc(slices.Clone(f.Instances), func(i *harness.Instance) bool { return i == one })
}

// shuffled gives all that do not lead, in an order that follows from the seed.
func (f *field) shuffled() []*harness.Instance {
	f.t.Helper()
	others := f.others(f.Leader())
	f.random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return others
}

// follower is one that does not lead.
func (f *field) follower() *harness.Instance { f.t.Helper(); return f.shuffled()[0] }

// pass lets time pass, which is what an outage is made of.
func (f *field) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.t.Context().Done():
	}
}

// inject counts a fault. From now on nothing is expected of instances.
func (f *field) inject(instances ...*harness.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.injected++
	for _, i := range instances {
		f.disturbed[i.Application] = append(f.disturbed[i.Application], span{from: time.Now()})
	}
}

// lift ends what inject began.
func (f *field) lift(instances ...*harness.Instance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range instances {
		spans := f.disturbed[i.Application]
		spans[len(spans)-1].to = time.Now()
	}
}

// kill ends instances with SIGKILL, all at once.
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

// pause stops an instance where it is, with SIGSTOP.
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

// drop loses all packets that senders send to receivers.
func (f *field) drop(senders, receivers []*harness.Instance) {
	f.t.Helper()
	f.inject()
	for _, from := range senders {
		for _, to := range receivers {
			f.network.Drop(from.Host, to.Host)
		}
	}
}

// cut loses all packets between two groups.
func (f *field) cut(one, other []*harness.Instance) {
	f.t.Helper()
	f.drop(one, other)
	f.drop(other, one)
}

// cutFromClients loses all packets between an instance and the clients.
func (f *field) cutFromClients(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	f.network.Cut([]int{0}, []int{i.Host})
}

// heal lets all packets pass. What was sent meanwhile is sent again by and by: the
// kernel's patience with a connection may have grown as long as the cut was.
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

// remove takes an instance out of the raft cluster.
func (f *field) remove(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	through := f.others(i)[0]
	harness.Eventually(f.t, i.ID+" is removed", func() error {
		err := through.RaftRemove(f.t.Context(), i.ID)
		if problem := new(harness.Problem); errors.As(err, &problem) && problem.Answer.Status == http.StatusNotFound {
			return nil // an attempt before had done it
		}
		return err
	})
}

// addAgain clears the directory of an instance that was removed, and adds it.
func (f *field) addAgain(i *harness.Instance) {
	f.t.Helper()
	i.Kill()
	i.Wipe()
	i.Start()
	f.setSuffrage(i, "voter")
	f.lift(i)
}

// setSuffrage adds an instance, or changes what it is.
func (f *field) setSuffrage(i *harness.Instance, suffrage string) {
	f.t.Helper()
	f.inject()
	member := i.Member()
	member.Suffrage = suffrage
	through := f.others(i)[0]
	harness.Eventually(f.t, i.ID+" becomes a "+suffrage, func() error { return through.RaftAdd(f.t.Context(), member) })
}
