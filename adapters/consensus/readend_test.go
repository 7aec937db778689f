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
	_, follower, asked, _ := trio(t)
	hanging, ended := make(chan struct{}, 2), make(chan error, 2)
	asked.let(func(ctx context.Context, _ func() (ports.ReadIndex, error)) (ports.ReadIndex, error) {
		hanging <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ports.ReadIndex{}, ctx.Err()
	})
	reads := []<-chan reading{readHere(within(t), follower)}
	receive(t, hanging, "the leader was not asked")
	for range 10 {
		reads = append(reads, readHere(within(t), follower)) // for the next question
	}
	until(t, "all wait", func() bool { return follower.asking.shared.Load() == 11 })
	follower.stop(t)
	if err := receive(t, ended, "the question goes on"); !errors.Is(err, context.Canceled) {
		t.Errorf("the question ended by itself: %v", err)
	}
	for _, read := range reads {
		if got := receive(t, read, "a reader waits on"); !errors.Is(got.err, ports.ErrClosed) {
			t.Errorf("a reader got revision %d, %v; want ErrClosed", got.view.Revision(), got.err)
		}
	}
	for name, ask := range map[string]func(context.Context) error{
		"read":       func(ctx context.Context) error { _, err := follower.ReadHere(ctx); return err },
		"roster":     func(ctx context.Context) error { _, err := follower.RosterHere(ctx); return err },
		"read index": func(ctx context.Context) error { _, err := follower.ReadIndex(ctx); return err },
	} {
		if err := ask(within(t)); !errors.Is(err, ports.ErrClosed) {
			t.Errorf("a %s after Close: %v", name, err)
		}
	}
}

// What is not over may use what Close releases.
func TestCloseWaitsForAQuestionThatDoesNotEnd(t *testing.T) {
	_, follower, asked, _ := trio(t)
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
		t.Error("it is closed, and somebody asks on")
	case <-time.After(300 * time.Millisecond):
	}
	close(proceed)
	receive(t, closed, "it is never closed")
	if got := receive(t, read, "the reader waits on"); !errors.Is(got.err, ports.ErrClosed) {
		t.Errorf("the reader: %v", got.err)
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
	until(t, "they wait for a proof", func() bool { return leader.gate.rounds.shared.Load()-shared >= uint64(len(asks)) })
	leader.stop(t)
	for name := range asks {
		if err := receive(t, failed[name], "a "+name+" goes on"); !errors.Is(err, ports.ErrClosed) {
			t.Errorf("a %s: %v, want ErrClosed", name, err)
		}
	}
}

// Whoever reads while an instance closes is told so, or that nobody leads, and
// keeps nothing running.
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
			receive(t, begun, "nobody reads")
		}
		closing.stop(t)
		for _, read := range reads {
			if err := receive(t, read, "who reads goes on for ever"); !errors.Is(err, ports.ErrClosed) {
				t.Errorf("a read while %s closes: %v", closing.config.ID, err)
			}
		}
	}
}

// The peer API is open before raft is.
func TestAReadIndexMayBeAskedForAtAnyTime(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true})
	t.Cleanup(func() { i.stop(t) })
	ask := func(what string) {
		if index, err := i.ReadIndex(within(t)); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("%s: index %d, %v; want ErrNotLeader", what, index, err)
		}
		if contact, ever := i.LeaderContact(); ever {
			t.Errorf("%s it heard from a leader %v ago", what, contact)
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
					t.Errorf("while it opens: %v", err)
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
	if index := receive(t, answered, "it never leads"); index == 0 || index > i.commitIndex() {
		t.Errorf("index %d of %d", index, i.commitIndex())
	}
	i.stop(t)
	if _, err := i.ReadIndex(ctx); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestAReadIndexOfAnInstanceThatWasNeverOpened(t *testing.T) {
	i := newInstance(t, instanceConfig{id: "a", directory: t.TempDir()})
	i.stop(t)
	if _, err := i.ReadIndex(within(t)); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
