package faults

import (
	"context"
	"flag"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// These tests need no network of their own, and therefore no root.
var (
	elections  = flag.Int("elections", 3, "number of elections with each backend, while clients read as fast as they can")
	deliveries = flag.Int("deliveries", 20_000, "number of changes delivered by streams with each backend, while leaders change")
)

// turnover are the ways in which a leader loses leadership.
var turnover = []nemesis{
	{name: "leadership handed over", elects: true, strike: func(f *field) {
		f.handOver(f.follower())
	}},
	{name: "pause of the leader", elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.pause(leader)
		f.Successor(leader)
		f.resume(leader)
	}},
	{name: "kill -9 of the leader", elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.kill(leader)
		f.Successor(leader)
		f.restart(leader)
	}},
	// Whether the leader is deposed depends on the machine.
	{name: "starved leader", strike: func(f *field) {
		leader := f.Leader()
		f.starve(leader)
		f.pass(outage)
		f.feed(leader)
	}},
}

func TestNoReadIsStaleInElections(t *testing.T) {
	eachBackend(t, ofReads, func(f *field) (done int) {
		for _, n := range turnover {
			if done < *elections {
				e := f.round(n)
				done += int(e.termAfter - e.termBefore)
			}
		}
		return done
	}, "elections", elections)
}

func TestStreamsTellAllWhileLeadersChange(t *testing.T) {
	eachBackend(t, ofStreams, func(f *field) (done int) {
		for _, n := range turnover[:3] {
			for _, stream := range f.round(n).streams {
				done += len(stream)
			}
		}
		return done
	}, "deliveries", deliveries)
}

// eachBackend runs some on a cluster of each backend until as much is done as the flag says.
func eachBackend(t *testing.T, d density, some func(f *field) (done int), what string, wanted *int) {
	t.Helper()
	t.Logf("-seed=%d", theSeed())
	for _, backend := range backends(t) {
		t.Run(backend, func(t *testing.T) {
			f := newField(t, harness.Options{Backend: backend}, d, theSeed())
			f.table = &gaps{}
			defer f.table.print(t)
			done := 0
			for done < *wanted {
				done += some(f)
			}
			t.Logf("%d %s", done, what)
		})
	}
}

// starve gives an instance only processor time that nothing else wants, and starts
// processes that want all of it.
func (f *field) starve(i *harness.Instance) {
	f.t.Helper()
	f.inject(i)
	f.schedule(i, "--idle")
	ctx, stop := context.WithCancel(context.Background())
	var burning sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		// The timeout ends it even if the test dies first.
		burner := exec.CommandContext(ctx, "timeout", "20", "sh", "-c", "while :; do :; done")
		// timeout(1) passes SIGTERM on. SIGKILL would leave the shell running.
		burner.Cancel = func() error { return burner.Process.Signal(syscall.SIGTERM) }
		burning.Go(func() { _ = burner.Run() }) // it is killed
	}
	f.stopBurning = func() { stop(); burning.Wait() }
}

// feed undoes starve.
func (f *field) feed(i *harness.Instance) {
	f.t.Helper()
	f.stopBurning()
	f.schedule(i, "--other")
	f.lift(i)
}

func (f *field) schedule(i *harness.Instance, policy string) {
	f.t.Helper()
	if output, err := exec.Command("chrt", "--all-tasks", policy, "--pid", "0", strconv.Itoa(i.Pid())).CombinedOutput(); err != nil {
		f.t.Skipf("chrt, which starves an instance, fails here: %v: %s", err, output)
	}
}
