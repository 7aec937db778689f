package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// enqueueTimeout is how long a write waits for a place in raft's queue, which is
// full only while the disk does not keep up.
const enqueueTimeout = time.Second

// Propose implements ports.Registry.
func (n *Node) Propose(ctx context.Context, cmd domain.Command) (domain.Change, error) {
	answer, err := n.apply(ctx, encodeEntry(cmd))
	if err != nil {
		return domain.Change{}, err
	}
	return answer.change, answer.err
}

func (n *Node) apply(ctx context.Context, entry []byte) (outcome, error) {
	if err := n.refusal(ctx); err != nil {
		return outcome{}, err
	}
	var future raft.ApplyFuture
	err := n.await(ctx, func() error {
		future = n.raft.Apply(entry, enqueueTimeout)
		return future.Error()
	})
	if err != nil {
		return outcome{}, err
	}
	return future.Response().(outcome), nil
}

// refusal is why nothing need be tried here; nil when it is worth a try.
func (n *Node) refusal(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case n.board.read().Closed:
		return ports.ErrClosed
	case n.raft.State() != raft.Leader:
		return ports.ErrNotLeader
	}
	return nil
}

// await waits for do, which changes raft's log and gives raft's answer, or for the
// end of ctx. Raft's futures know no context, so a goroutine waits for each. With
// ErrClosed do was not called.
func (n *Node) await(ctx context.Context, do func() error) error {
	return portError(n.wait(ctx, do))
}

// wait is await without portError.
func (n *Node) wait(ctx context.Context, do func() error) error {
	if !n.inflight.enter() {
		return ports.ErrClosed
	}
	answer := make(chan error, 1)
	go func() {
		defer n.inflight.leave()
		answer <- do()
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// portError tells apart what certainly did not happen from what may yet. What
// raft does not promise is unknown.
func portError(err error) error {
	switch {
	case err == nil, errors.Is(err, ports.ErrClosed):
		return err
	case errors.Is(err, raft.ErrNotLeader):
		return ports.ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return fmt.Errorf("%w: %w", ports.ErrNotLeader, err)
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ports.ErrBusy
	}
	return errors.Join(ports.ErrOutcomeUnknown, err)
}

// Read implements ports.Registry: the gate proves leadership after the call came
// in, and names the index that the view must have reached.
func (n *Node) Read(ctx context.Context) (domain.View, error) {
	state, err := n.read(ctx)
	if err != nil {
		return domain.View{}, err
	}
	return state.View, nil
}

// read gives a state that holds all that was committed when it was called.
func (n *Node) read(ctx context.Context) (*notice, error) {
	index, err := n.prove(ctx)
	switch {
	case err != nil && n.board.read().Closed:
		return nil, ports.ErrClosed
	case err != nil:
		return nil, err
	}
	for {
		// What raft calls applied is only handed to the state machine; the
		// notice says what the state machine has done.
		latest := n.board.read()
		switch {
		case latest.applied >= index:
			return latest, nil
		case latest.Closed:
			return nil, ports.ErrClosed // nothing more may ever be applied
		}
		select {
		case <-latest.later:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
