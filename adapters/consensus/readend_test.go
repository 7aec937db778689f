package consensus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

func TestCloseEndsAQuestionThatHangs(t *testing.T) {
	_, follower, asked, _ := startTrio(t)
	hanging, ended := make(chan struct{}, 2), make(chan error, 2)
	asked.let(func(ctx context.Context, _ func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		hanging <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ports.ReadIndex{}, ctx.Err()
	})
	reads := []<-chan readResult{readHere(within(t), follower)}
	receive(t, hanging, "the leader was not asked")
	for range 10 {
		reads = append(reads, readHere(within(t), follower)) // these share the next request
	}
	until(t, "all readers wait", func() bool { return follower.asking.shared.Load() == 11 })
	follower.stop(t)
	if err := receive(t, ended, "the request to the leader did not end"); !errors.Is(err, context.Canceled) {
		t.Errorf("error of the request = %v, want context.Canceled", err)
	}
	for _, read := range reads {
		if got := receive(t, read, "a reader still waits"); !errors.Is(got.err, ports.ErrClosed) {
			t.Errorf("ReadHere = revision %d, %v, want ErrClosed", got.view.Revision(), got.err)
		}
	}
	for name, ask := range map[string]func(context.Context) error{
		"read":       func(ctx context.Context) error { _, err := follower.ReadHere(ctx); return err },
		"roster":     func(ctx context.Context) error { _, err := follower.RosterHere(ctx); return err },
		"read index": func(ctx context.Context) error { _, err := follower.ReadIndex(ctx); return err },
	} {
		if err := ask(within(t)); !errors.Is(err, ports.ErrClosed) {
			t.Errorf("%s after Close = %v, want ErrClosed", name, err)
		}
	}
}

// A request that has not ended may use what Close releases.
func TestCloseWaitsForAQuestionThatDoesNotEnd(t *testing.T) {
	_, follower, asked, _ := startTrio(t)
	hanging, proceed := make(chan struct{}, 1), make(chan struct{})
	asked.let(func(context.Context, func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		hanging <- struct{}{}
		<-proceed
		return ports.ReadIndex{}, errCut
	})
	read := readHere(within(t), follower)
	receive(t, hanging, "the leader was not asked")
	closed := make(chan struct{})
	go func() {
		follower.stop(t)
		close(closed)
	}()
	<-follower.running.Done()
	select {
	case <-closed:
		t.Error("Close returned while a request was still running")
	case <-time.After(300 * time.Millisecond):
	}
	close(proceed)
	receive(t, closed, "the instance is never closed")
	if got := receive(t, read, "the reader still waits"); !errors.Is(got.err, ports.ErrClosed) {
		t.Errorf("ReadHere = %v, want ErrClosed", got.err)
	}
}

func TestCloseEndsAProofThatHangs(t *testing.T) {
	fabric := newNetwork()
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		config.hooks.transport = func(inner transport) transport { return &faulty{inner, fabric} }
		if config.bootstrap {
			config.hooks.settings = neverDeposed
		}
	})
	leader := cluster[0]
	fabric.cut(raft.ServerAddress(leader.raftAddress()))
	asks := map[string]func(context.Context) error{
		"read":       func(ctx context.Context) error { _, err := leader.Read(ctx); return err },
		"read here":  func(ctx context.Context) error { _, err := leader.ReadHere(ctx); return err },
		"read index": func(ctx context.Context) error { _, err := leader.ReadIndex(ctx); return err },
	}
	failed := map[string]chan error{}
	shared := leader.gate.rounds.shared.Load()
	for name, ask := range asks {
		failed[name] = make(chan error, 1)
		answer := failed[name] // the map is not for several goroutines
		go func() { answer <- ask(within(t)) }()
	}
	until(t, "all calls wait for a proof of leadership", func() bool { return leader.gate.rounds.shared.Load()-shared >= uint64(len(asks)) })
	leader.stop(t)
	for name := range asks {
		if err := receive(t, failed[name], "the "+name+" did not end"); !errors.Is(err, ports.ErrClosed) {
			t.Errorf("%s = %v, want ErrClosed", name, err)
		}
	}
}

// A read while an instance closes fails with ErrClosed or ErrNoLeader, and leaves nothing
// running.
func TestCloseIsSafeWhileManyReadHere(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	ctx := within(t)
	for _, closing := range []*instance{cluster[2], cluster[0]} { // a follower, then the leader
		var reads []<-chan error
		begun := make(chan struct{}, 16)
		for n := range cap(begun) {
			ended := make(chan error, 1)
			reads = append(reads, ended)
			go func() {
				for first := true; ; first = false {
					var err error
					if n%2 == 0 {
						_, err = closing.ReadHere(ctx)
					} else {
						_, err = closing.RosterHere(ctx)
					}
					if first {
						begun <- struct{}{}
					}
					if err != nil && !errors.Is(err, ports.ErrNoLeader) {
						ended <- err
						return
					}
				}
			}()
		}
		for range cap(begun) {
			receive(t, begun, "no reader has begun")
		}
		closing.stop(t)
		for _, read := range reads {
			if err := receive(t, read, "a reader does not end"); !errors.Is(err, ports.ErrClosed) {
				t.Errorf("read while %s closes = %v, want ErrClosed", closing.config.ID, err)
			}
		}
	}
}

// The peer API is open before raft is started.
func TestAReadIndexMayBeAskedForAtAnyTime(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	t.Cleanup(func() { i.stop(t) })
	ask := func(what string) {
		if index, err := i.ReadIndex(within(t)); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("ReadIndex %s = %d, %v, want ErrNotLeader", what, index, err)
		}
		if contact, ever := i.LeaderContact(); ever {
			t.Errorf("LeaderContact %s = %v ago, want none", what, contact)
		}
	}
	ask("before Claim")
	ctx := context.Background()
	answered := make(chan uint64, 1)
	go func() {
		for {
			i.LeaderContact()
			i.State()
			index, err := i.ReadIndex(ctx)
			if err == nil || !errors.Is(err, ports.ErrNotLeader) {
				if err != nil {
					t.Errorf("ReadIndex while the instance opens = %v, want ErrNotLeader or success", err)
				}
				answered <- index
				return
			}
		}
	}()
	if err := errors.Join(i.Claim(ctx), i.demux.Open(ctx)); err != nil {
		t.Fatal(err)
	}
	ask("before Open")
	if err := i.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if index := receive(t, answered, "the instance never leads"); index == 0 || index > i.commitIndex() {
		t.Errorf("ReadIndex = %d, want an index up to the commit index %d", index, i.commitIndex())
	}
	i.stop(t)
	if _, err := i.ReadIndex(ctx); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("ReadIndex after Close = %v, want ErrClosed", err)
	}
}

func TestAReadIndexOfAnInstanceThatWasNeverOpened(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir()})
	i.stop(t)
	if _, err := i.ReadIndex(within(t)); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("ReadIndex after Close = %v, want ErrClosed", err)
	}
}
