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
	// waitingReads is the number of reads sent to a leader while it is paused, and
	// settle is how long something in flight has to arrive.
	waitingReads = 64
	settle       = 50 * time.Millisecond
	// fewest is the least number of operations of a round: idle clients would prove nothing.
	fewest = 100
	// operationTimeout is longer than a leader is paused, so that requests sent to
	// it before the pause are answered afterwards.
	operationTimeout = 4 * time.Second
)

// load runs rounds on one cluster.
type load struct {
	t       *testing.T
	cluster *harness.Cluster
	clients []*harness.Client
	here    string // see history.Config
	values  atomic.Int64
	rounds  int
}

// linearizable is the query of half of the reads: a follower answers them itself,
// instead of redirecting to the leader. local reads are answered without asking the
// leader.
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
	options.Build.Plain = true // the race detector would slow down what has to be fast here
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

// disturb runs one round while what disturbs the leader, and reports whether the
// history of the round is linearizable.
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
	l.cluster.Leader() // wait until there is a leader again
	l.awaitWork(r, fewest)
	cancel()
	<-ended
	l.cluster.AwaitReady()
	return history.Check(t, fmt.Sprintf("round-%d", l.rounds), r.History())
}

// awaitWork waits until the round has more operations.
func (l *load) awaitWork(r *history.Round, more int) {
	l.t.Helper()
	goal := r.Count() + more
	harness.Eventually(l.t, "the clients complete more operations", func() error {
		if n := r.Count(); n < goal {
			return fmt.Errorf("%d operations of %d", n, goal)
		}
		return nil
	})
}

// kill kills the leader, and restarts it once there is another.
func (l *load) kill(_ *history.Round, leader *harness.Instance) {
	leader.Kill()
	l.cluster.Leader()
	leader.Start()
}

// freeze pauses the leader until another one is elected and has written. Before the
// old one resumes, many reads wait in its sockets: it answers them at the moment in
// which it does not know yet that it was deposed.
func (l *load) freeze(r *history.Round, leader *harness.Instance) {
	r.ReadAll(leader.Client, waitingReads) // opens the connections
	leader.Pause()
	r.WriteAll(l.cluster.Successor(leader).Client)
	readBehind(r, leader, func() {})
}

// lag pauses a follower while the leader goes on. When the follower resumes, reads
// and the entries that it missed arrive at the same time.
func (l *load) lag(r *history.Round, leader *harness.Instance) {
	follower := l.others(leader)[l.rounds%2]
	r.ReadAll(follower.Client, waitingReads) // opens the connections
	follower.Pause()
	r.WriteAll(leader.Client)
	readBehind(r, follower, func() {})
}

// late delays everything that a follower receives beyond the time in which the leader answers.
func (l *load) late(r *history.Round, leader *harness.Instance) {
	follower := l.others(leader)[0]
	follower.Proxy.Delay(harness.Forth, settle)
	for range 3 {
		r.WriteAll(leader.Client)
		r.ReadAll(follower.Client, waitingReads)
	}
	follower.Proxy.Delay(harness.Forth, 0)
}

// deceive pauses a leader whose lease is far too long (see deceivable). Answers to
// its earlier heartbeats are delayed, and arrive after it was asked to read; it
// hears nothing from its successor.
func (l *load) deceive(r *history.Round, leader *harness.Instance) {
	r.ReadAll(leader.Client, waitingReads)
	for _, i := range l.others(leader) {
		i.Proxy.Hold(harness.Back)
	}
	wait(settle) // wait until heartbeats are sent, whose answers are held
	leader.Proxy.Cut()
	leader.Pause()
	r.WriteAll(l.cluster.Successor(leader).Client)
	readBehind(r, leader, func() {
		wait(settle) // wait until the reads have arrived
		for _, i := range l.cluster.Instances {
			i.Proxy.Heal()
		}
	})
}

// readBehind sends reads to a paused instance, resumes it, calls then, and waits for the answers.
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

// deceivable starts a cluster whose first instance leads, and keeps leading without
// an answer for longer than the others wait before they elect another leader.
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

// The instance asked answers half of the reads, so mostly a follower does.
func TestReadsAndWritesAreLinearizable(t *testing.T) {
	for _, backend := range []string{"bolt", "badger", "wal"} {
		t.Run(backend, func(t *testing.T) {
			l := newLoad(t, harness.Options{Backend: backend})
			operations := 0
			for began := time.Now(); time.Since(began) < *duration; {
				what := []func(*history.Round, *harness.Instance){l.freeze, l.kill, l.lag}[l.rounds%3]
				before := l.values.Load()
				if result := l.disturb(what); result != porcupine.Ok {
					t.Fatalf("round %d: result of porcupine = %v, want %v", l.rounds, result, porcupine.Ok)
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
		t.Fatalf("result of porcupine = %v, want %v", result, porcupine.Ok)
	}
}

// A follower that is behind answers a linearizable read only after it has caught
// up. A local read does not wait, and the search finds that it is stale.
func TestOnlyLocalReadsOfALateFollowerAreStale(t *testing.T) {
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
			t.Errorf("%s reads: result of porcupine = %v, want %v", name, result, test.want)
		}
	}
}

// The search must find the stale reads of builds that do not prove leadership.
func TestBuildsThatReadWithoutProofServeStaleReads(t *testing.T) {
	tests := map[string]struct{ tag string }{
		"a local read":                 {"broken_read_local"},
		"VerifyLeader and then a read": {"broken_read_verifyleader"},
	}
	// An election may take longer than the old leader's lease.
	const tries = 10
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for try := range tries {
				l := deceivable(t, harness.Build{Tags: []string{test.tag}, Plain: true})
				if l.disturb(l.deceive) == porcupine.Illegal {
					t.Logf("a stale read was found in try %d", try+1)
					return
				}
			}
			t.Errorf("no stale read was found in %d tries, want one", tries)
		})
	}
}
