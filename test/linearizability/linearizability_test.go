package linearizability

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

var duration = flag.Duration("duration", time.Minute, "how long the cluster of each backend is disturbed under load")

const (
	clientsOfEach = 4 // clients on each instance
	// waitingReads are sent to a leader while it is paused, and settle is how
	// long something on its way has for getting there.
	waitingReads = 64
	settle       = 50 * time.Millisecond
	// fewest is how many operations a round must have seen: idle clients would
	// prove nothing.
	fewest = 100
	// operationTimeout is longer than a leader is paused, so that what was sent to
	// it before is answered after.
	operationTimeout = 4 * time.Second
)

// load makes rounds for one cluster.
type load struct {
	t       *testing.T
	cluster *harness.Cluster
	clients []*harness.Client
	here    string // see history.Config
	values  atomic.Int64
	rounds  int
}

// linearizable is how half of the reads are made, which an instance that does not
// lead answers itself; others it redirects. local reads ask nobody.
const (
	linearizable = "redirect=false"
	local        = "consistency=stale"
)

func (l *load) round() *history.Round {
	l.rounds++
	return history.New(history.Config{
		Name:    fmt.Sprintf("r%d", l.rounds),
		Clients: l.clients,
		Here:    l.here,
		Values:  &l.values,
		Timeout: operationTimeout,
	})
}

func newLoad(t *testing.T, options harness.Options) *load {
	t.Helper()
	options.Build.Plain = true // the race detector slows down what has to be fast here
	l := &load{t: t, cluster: harness.Start(t, options), here: linearizable}
	l.connect()
	return l
}

func (l *load) connect() {
	for _, i := range l.cluster.Instances {
		for range clientsOfEach {
			l.clients = append(l.clients, harness.NewClient(l.t, i.Application))
		}
	}
}

// disturb runs one round while something is done to the leader, and says whether
// what the clients saw is linearizable.
func (l *load) disturb(what func(r *history.Round, leader *harness.Instance)) porcupine.CheckResult {
	t := l.t
	t.Helper()
	leader := l.cluster.Leader()
	r := l.round()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	l.awaitWork(r, fewest/2)
	what(r, leader)
	l.cluster.Leader() // until there is one again
	l.awaitWork(r, fewest)
	cancel()
	<-ended
	l.cluster.AwaitReady()
	return history.Check(t, fmt.Sprintf("round-%d", l.rounds), r.History())
}

// awaitWork waits until the round has seen so many operations more.
func (l *load) awaitWork(r *history.Round, more int) {
	l.t.Helper()
	goal := r.Count() + more
	harness.Eventually(l.t, "the clients get on", func() error {
		if n := r.Count(); n < goal {
			return fmt.Errorf("%d operations of %d", n, goal)
		}
		return nil
	})
}

// kill ends the leader without a word, and starts it again once there is another.
func (l *load) kill(_ *history.Round, leader *harness.Instance) {
	leader.Kill()
	l.cluster.Leader()
	leader.Restart()
}

// freeze stops the leader until another is elected, and has written. Before the
// old one goes on, many reads wait in its sockets: it answers them in the moment
// in which it does not know yet that it was deposed.
func (l *load) freeze(r *history.Round, leader *harness.Instance) {
	r.ReadAll(leader.Client, waitingReads) // opens the connections
	leader.Pause()
	r.WriteAll(l.cluster.Successor(leader).Client)
	readBehind(r, leader, func() {})
}

// lag stops a follower while the leader goes on. When it goes on, reads and what
// it has missed come in at the same time.
func (l *load) lag(r *history.Round, leader *harness.Instance) {
	follower := l.others(leader)[l.rounds%2]
	r.ReadAll(follower.Client, waitingReads) // opens the connections
	follower.Pause()
	r.WriteAll(leader.Client)
	readBehind(r, follower, func() {})
}

// late has a follower hear everything later than the leader answers.
func (l *load) late(r *history.Round, leader *harness.Instance) {
	follower := l.others(leader)[0]
	follower.Proxy.Delay(harness.Forth, settle)
	for range 3 {
		r.WriteAll(leader.Client)
		r.ReadAll(follower.Client, waitingReads)
	}
	follower.Proxy.Delay(harness.Forth, 0)
}

// deceive freezes a leader that believes in itself for long (see deceivable).
// Answers to its heartbeats from before are on their way to it all the time, and
// come in after it was asked; of its successor it hears nothing.
func (l *load) deceive(r *history.Round, leader *harness.Instance) {
	r.ReadAll(leader.Client, waitingReads)
	for _, i := range l.others(leader) {
		i.Proxy.Hold(harness.Back)
	}
	wait(settle) // for heartbeats, whose answers are held
	leader.Proxy.Cut()
	leader.Pause()
	r.WriteAll(l.cluster.Successor(leader).Client)
	readBehind(r, leader, func() {
		wait(settle) // for the reads to be asking
		for _, i := range l.cluster.Instances {
			i.Proxy.Heal()
		}
	})
}

// readBehind sends reads to a paused leader, lets it go on, does what comes then,
// and waits for the answers.
func readBehind(r *history.Round, leader *harness.Instance, then func()) {
	var reading sync.WaitGroup
	reading.Go(func() { r.ReadAll(leader.Client, waitingReads) })
	wait(settle)
	leader.Resume()
	then()
	reading.Wait()
}

func (l *load) others(leader *harness.Instance) []*harness.Instance {
	return slices.DeleteFunc(slices.Clone(l.cluster.Instances), func(i *harness.Instance) bool { return i == leader })
}

// deceivable starts a cluster whose first instance leads, and goes on leading
// for longer without an answer than the others go without a leader.
func deceivable(t *testing.T, build harness.Build) *load {
	t.Helper()
	l := &load{t: t, cluster: harness.New(t, harness.Options{Build: build, Proxied: true}), here: linearizable}
	for n, i := range l.cluster.Instances {
		timeout := "600ms"
		if n == 0 {
			timeout = "2600ms"
		}
		i.Flags = append(i.Flags, "--raft_heartbeat_timeout="+timeout, "--raft_election_timeout="+timeout)
	}
	l.cluster.Bootstrap()
	l.connect()
	return l
}

func wait(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// Half of the reads are answered by whoever is asked, and so mostly by followers.
func TestReadsAndWritesAreLinearizable(t *testing.T) {
	for _, backend := range []string{"bolt", "badger", "wal"} {
		t.Run(backend, func(t *testing.T) {
			l := newLoad(t, harness.Options{Backend: backend})
			operations := 0
			for began := time.Now(); time.Since(began) < *duration; {
				what := []func(*history.Round, *harness.Instance){l.freeze, l.kill, l.lag}[l.rounds%3]
				before := l.values.Load()
				if result := l.disturb(what); result != porcupine.Ok {
					t.Fatalf("round %d: porcupine says %v", l.rounds, result)
				}
				operations += int(l.values.Load() - before)
			}
			t.Logf("%d writes in %d rounds, each with a leader killed or paused, or a follower paused", operations, l.rounds)
		})
	}
}

func TestADeceivedLeaderServesNoStaleRead(t *testing.T) {
	l := deceivable(t, harness.Build{Plain: true})
	if result := l.disturb(l.deceive); result != porcupine.Ok {
		t.Fatalf("porcupine says %v", result)
	}
}

// A follower that is behind answers no linearizable read before it has caught up,
// and a read that does not ask for that is found out.
func TestReadsOfALateFollower(t *testing.T) {
	tests := map[string]struct {
		here string
		want porcupine.CheckResult
	}{
		"linearizable": {linearizable, porcupine.Ok},
		"local":        {local, porcupine.Illegal},
	}
	l := newLoad(t, harness.Options{Proxied: true})
	for name, test := range tests {
		l.here = test.here
		if result := l.disturb(l.late); result != test.want {
			t.Errorf("%s reads: porcupine says %v, want %v", name, result, test.want)
		}
	}
}

// A build that does not prove leadership as it must is found out.
func TestWeakReadsAreFoundOut(t *testing.T) {
	tests := map[string]struct{ tag string }{
		"a local read":                 {"broken_read_local"},
		"VerifyLeader and then a read": {"broken_read_verifyleader"},
	}
	// An election may take longer than the old leader believes in itself.
	const tries = 10
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for try := range tries {
				l := deceivable(t, harness.Build{Tags: []string{test.tag}, Plain: true})
				if l.disturb(l.deceive) == porcupine.Illegal {
					t.Logf("found out in try %d", try+1)
					return
				}
			}
			t.Errorf("%d leaders were deceived, and no stale read was found", tries)
		})
	}
}
