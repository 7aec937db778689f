package consensus

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// What can't be read must stop the process, and stopping must not have to wait
// for the entry that can't be read.
func TestACommittedEntryThatCannotBeReadIsFatal(t *testing.T) {
	fatal := make(chan error, 2)
	i := start(t, instanceConfig{id: "a", directory: t.TempDir(), bootstrap: true, fatal: func(err error) { fatal <- err }})
	i.eventually(t, "leading", leading)
	register(t, i, "before")

	damaged := encodeEntry(domain.Deregister{ID: "before"})
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
	if !errors.Is(reason, errChecksum) || !strings.Contains(reason.Error(), "log entry") {
		t.Errorf("the reason does not say what is wrong: %v", reason)
	}
	go propose(encodeEntry(domain.Deregister{ID: "before"}))
	until(t, "both proposals are in flight", func() bool {
		i.inflight.mu.Lock()
		defer i.inflight.mu.Unlock()
		return i.inflight.count == 2
	})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := i.Close(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("close: %v, %v", err, ctx.Err())
	}
	for range 2 {
		if err := <-answers; !errors.Is(err, ports.ErrOutcomeUnknown) {
			t.Errorf("a proposal was answered with %v", err)
		}
	}
	if state, _ := i.State(); state.View.Len() != 1 {
		t.Error("something was applied behind the entry that can't be read")
	}
	if len(fatal) > 0 {
		t.Errorf("Fatal was called again: %v", <-fatal)
	}
}
