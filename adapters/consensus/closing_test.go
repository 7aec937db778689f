package consensus

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// An entry that can't be read must stop the process, and stopping must not wait for that
// entry.
func TestACommittedEntryThatCannotBeReadIsFatal(t *testing.T) {
	fatal := make(chan error, 2)
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true, fatal: func(err error) { fatal <- err }})
	i.eventually(t, "leading", leading)
	register(t, i, "before")

	damaged := codec.EncodeEntry(domain.Deregister{ID: "before"})
	damaged[len(damaged)-1] ^= 1
	answers := make(chan error, 2)
	propose := func(entry []byte) {
		answer, err := i.apply(within(t), entry)
		answers <- errors.Join(err, answer.err)
	}
	go propose(damaged)
	var reason error
	select {
	case reason = <-fatal:
	case <-time.After(patience):
		t.Fatal("Fatal was not called")
	}
	if !errors.Is(reason, codec.ErrChecksum) || !strings.Contains(reason.Error(), "log entry") {
		t.Errorf("Fatal was called with %v, want ErrChecksum and a log entry", reason)
	}
	go propose(codec.EncodeEntry(domain.Deregister{ID: "before"}))
	until(t, "both proposals are in flight", func() bool {
		i.inflight.mu.Lock()
		defer i.inflight.mu.Unlock()
		return i.inflight.count == 2
	})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := i.Close(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("Close = %v, context: %v, want success in time", err, ctx.Err())
	}
	for range 2 {
		if err := <-answers; !errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("error of a proposal = %v, want ErrOutcomeUnknown", err)
		}
	}
	if state, _ := i.State(); state.View.Len() != 1 {
		t.Error("an entry behind the unreadable one was applied")
	}
	if len(fatal) > 0 {
		t.Errorf("Fatal was called again: %v", <-fatal)
	}
}

// Close leaves no proposal without an answer.
func TestCloseAnswersEveryProposalInFlight(t *testing.T) {
	cluster := startCluster(t, 3, nil)
	leader := cluster[0]
	var proposals sync.WaitGroup
	begun := make(chan struct{}, 32)
	for range cap(begun) {
		proposals.Go(func() {
			for first := true; ; first = false {
				_, err := leader.Propose(within(t), domain.Register{Node: node(t, "x", "x:1")})
				if first {
					begun <- struct{}{}
				}
				switch {
				case errors.Is(err, ports.ErrClosed):
					return
				case err != nil && !errors.Is(err, ports.ErrOutcomeUnknown) && !errors.Is(err, ports.ErrNotLeader):
					t.Errorf("Propose while the instance closes = %v", err)
					return
				}
			}
		})
	}
	for range cap(begun) {
		<-begun
	}
	leader.stop(t)
	proposals.Wait()
	if _, err := leader.Read(within(t)); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("Read after Close = %v, want ErrClosed", err)
	}
	if err := leader.Add(within(t), domain.Instance{ID: "z", RaftAddress: "z:1", Suffrage: domain.Nonvoter}); !errors.Is(err, ports.ErrClosed) {
		t.Errorf("Add after Close = %v, want ErrClosed", err)
	}
}

// A read that waits for the state machine must not outlive the instance.
func TestCloseEndsAReadThatWaitsForTheStateMachine(t *testing.T) {
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true, fatal: func(error) {}})
	i.eventually(t, "leading", leading)
	go func() { _, _ = i.apply(within(t), []byte("not an entry")) }()
	until(t, "the entry is committed and can't be applied", func() bool {
		return i.commitIndex() > i.state.read().Applied
	})
	answer := make(chan error, 1)
	rounds := i.evidence.now()
	go func() {
		_, err := i.Read(within(t))
		answer <- err
	}()
	until(t, "the read has passed the gate", func() bool { return i.evidence.now() > rounds })
	i.stop(t)
	select {
	case err := <-answer:
		if !errors.Is(err, ports.ErrClosed) {
			t.Errorf("Read = %v, want ErrClosed", err)
		}
	case <-time.After(patience / 2):
		t.Error("the read still waits for an entry that the closed instance will never apply")
	}
}
