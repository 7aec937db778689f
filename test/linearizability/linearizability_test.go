package linearizability

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var duration = flag.Duration("duration", time.Minute, "how long the cluster is disturbed under load")

const (
	clientsOfEach = 4 // clients on each instance
	// pause is longer than an election, and shorter than raft's patience with an
	// answer, so that what was on its way to a paused leader still counts.
	pause = 1300 * time.Millisecond
	// fewest is how many operations a round must have seen: idle clients would
	// prove nothing.
	fewest = 100
	// searchTime bounds porcupine on one round's history.
	searchTime = time.Minute
)

func newLoad(t *testing.T, options harness.Options) *load {
	t.Helper()
	options.Build.Plain = true // the race detector slows down what has to be fast here
	l := &load{cluster: harness.Start(t, options)}
	for _, i := range l.cluster.Instances {
		for range clientsOfEach {
			l.clients = append(l.clients, harness.NewClient(t, i.Application))
		}
	}
	return l
}

// disturb runs one round while something is done to the leader, and says whether
// what the clients saw is linearizable.
func (l *load) disturb(t *testing.T, what func(leader *harness.Instance)) porcupine.CheckResult {
	t.Helper()
	leader := l.cluster.Leader()
	r := l.round()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); r.run(ctx) }()
	l.awaitWork(t, r, fewest/2)
	what(leader)
	l.cluster.Leader() // until there is one again
	l.awaitWork(t, r, fewest)
	cancel()
	<-ended
	l.cluster.AwaitReady()
	result, info := porcupine.CheckOperationsVerbose(model, r.history, searchTime)
	if result == porcupine.Illegal {
		picture := filepath.Join(t.ArtifactDir(), fmt.Sprintf("round-%d.html", l.rounds))
		if err := porcupine.VisualizePath(model, info, picture); err != nil {
			t.Error(err)
		}
		t.Logf("round %d is not linearizable; run with -artifacts to keep the picture of it", l.rounds)
	}
	return result
}

// awaitWork waits until the round has seen so many operations more.
func (l *load) awaitWork(t *testing.T, r *round, more int) {
	t.Helper()
	seen := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.history)
	}
	goal := seen() + more
	harness.Eventually(t, "the clients get on", func() error {
		if n := seen(); n < goal {
			return fmt.Errorf("%d operations of %d", n, goal)
		}
		return nil
	})
}

// kill ends the leader without a word, and starts it again once there is another.
func (l *load) kill(leader *harness.Instance) {
	leader.Kill()
	l.cluster.Leader()
	leader.Restart()
}

// freeze stops the leader for longer than an election takes.
func (l *load) freeze(leader *harness.Instance) {
	leader.Pause()
	timer := time.NewTimer(pause)
	<-timer.C
	leader.Resume()
}

func TestReadsAndWritesAreLinearizable(t *testing.T) {
	for _, backend := range []string{"bolt", "badger"} {
		t.Run(backend, func(t *testing.T) {
			l := newLoad(t, harness.Options{Backend: backend})
			operations := 0
			for began := time.Now(); time.Since(began) < *duration/2; {
				what := l.freeze
				if l.rounds%2 == 1 {
					what = l.kill
				}
				before := l.values.Load()
				if result := l.disturb(t, what); result != porcupine.Ok {
					t.Fatalf("round %d: porcupine says %v", l.rounds, result)
				}
				operations += int(l.values.Load() - before)
			}
			t.Logf("%d writes in %d rounds, each with a leader killed or paused", operations, l.rounds)
		})
	}
}

// A build that does not prove leadership as it must is found out.
func TestWeakReadsAreFoundOut(t *testing.T) {
	tests := map[string]struct {
		tag string
		// slow delays the followers' answers to the leader, so that some are on
		// their way when it is paused.
		slow time.Duration
	}{
		"a local read":                 {tag: "broken_read_local"},
		"VerifyLeader and then a read": {tag: "broken_read_verifyleader", slow: 50 * time.Millisecond},
	}
	const most = 60 // rounds without a finding
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLoad(t, harness.Options{Build: harness.Build{Tags: []string{test.tag}}, Proxied: test.slow > 0})
			for range most {
				for _, i := range l.cluster.Instances {
					if test.slow > 0 {
						i.Proxy.Delay(harness.Back, test.slow)
					}
				}
				if l.disturb(t, l.freeze) == porcupine.Illegal {
					t.Logf("found out in round %d", l.rounds)
					return
				}
			}
			t.Errorf("%d leaders were paused, and no stale read was found", most)
		})
	}
}
