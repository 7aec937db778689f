package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// askTimeout bounds a ReadIndex request to the leader, which answers once it has heard from
// a majority. answerTimeout bounds a whole read at a follower: the request, which may wait
// for an earlier one, and until the index is applied here. Reads are promised to fail within
// a second; the rest is left for a machine short of processors.
const (
	askTimeout    = 500 * time.Millisecond
	answerTimeout = 600 * time.Millisecond
)

// errDiskStalled ends the wait for an entry while the disk is stalled.
var errDiskStalled = errors.New("the disk of this instance does not answer")

// Propose implements ports.Registry.
func (n *Node) Propose(ctx context.Context, cmd domain.Command) ([]domain.Change, error) {
	if err := n.refusal(ctx); err != nil {
		return nil, err // before it is encoded, which is expensive for a batch
	}
	if err := n.checkAllCanRead(cmd); err != nil {
		return nil, err
	}
	began := time.Now()
	answer, err := n.apply(ctx, codec.EncodeEntry(cmd))
	if err != nil {
		return nil, err
	}
	n.config.Observer.Proposed(time.Since(began))
	return answer.changes, answer.err
}

func (n *Node) apply(ctx context.Context, entry []byte) (outcome, error) {
	if err := n.refusal(ctx); err != nil {
		return outcome{}, err
	}
	if !n.inflight.enter() {
		return outcome{}, ports.ErrClosed
	}
	w := &write{entry: entry, done: make(chan struct{})}
	if !n.writes.add(w) {
		n.inflight.leave()
		return outcome{}, ports.ErrBusy
	}
	select {
	case <-w.done:
		return w.outcome, w.err
	case <-n.disk.Stalled():
		return outcome{}, portError(errDiskStalled)
	case <-ctx.Done():
		return outcome{}, portError(ctx.Err())
	}
}

// refusal returns why a proposal is certain to fail here, or nil.
func (n *Node) refusal(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case n.state.read().Closed:
		return ports.ErrClosed
	case n.raft.State() != raft.Leader:
		return ports.ErrNotLeader
	}
	return n.diskFault()
}

// diskFault returns the answer of a leader whose disk is in trouble, and which does not know
// yet who leads next; nil if there is no trouble.
func (n *Node) diskFault() error {
	if fault := n.disk.Fault(); fault != nil {
		return fmt.Errorf("%w: %w", ports.ErrNoLeader, fault)
	}
	return nil
}

// await runs do, which changes raft's log and returns raft's answer, and waits for it, for
// the end of ctx, or for a stalled disk. Raft's futures take no context, so a goroutine
// waits for each. After ErrClosed, do was not called.
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
	case <-n.disk.Stalled():
		return errDiskStalled
	case <-ctx.Done():
		return ctx.Err()
	}
}

// portError translates raft's errors into the port's. An error that does not rule out a
// later effect becomes ErrOutcomeUnknown.
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
	case errors.As(err, new(*logstore.NoRoomError)), errors.Is(err, logstore.ErrDirectoryGone), errors.As(err, new(*disk.Trouble)):
		return fmt.Errorf("%w: %w", ports.ErrNoLeader, err)
	}
	return fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, err)
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

// ReadHere implements ports.Registry.
func (n *Node) ReadHere(ctx context.Context) (domain.View, error) {
	state, err := n.readHere(ctx)
	if err != nil {
		return domain.View{}, err
	}
	return state.View, nil
}

// ReadIndex implements ports.ReadIndexer. It may be called before Open has returned.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	switch state := n.state.read(); {
	case state.Closed:
		return 0, ports.ErrClosed
	case !state.opened || n.raft.State() != raft.Leader:
		return 0, ports.ErrNotLeader
	}
	if err := n.diskFault(); err != nil {
		return 0, err
	}
	index, err := n.prove(ctx)
	if err != nil && n.state.read().Closed {
		return 0, ports.ErrClosed
	}
	return index, err
}

// read returns a state that holds everything committed before the call.
func (n *Node) read(ctx context.Context) (*localState, error) {
	index, err := n.ReadIndex(ctx)
	if err != nil {
		return nil, err
	}
	return n.awaitApplied(ctx, index)
}

// readHere is read, whether or not this instance leads.
func (n *Node) readHere(ctx context.Context) (*localState, error) {
	state, err := n.read(ctx)
	if !errors.Is(err, ports.ErrNotLeader) {
		return state, err
	}
	waiting, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	index, err := n.asking.do(waiting, n.askLeader)
	late := fmt.Errorf("%w: the leader has not answered within %v", ports.ErrNoLeader, answerTimeout)
	if err == nil {
		state, err = n.awaitApplied(waiting, index)
		late = n.notCaughtUp()
	}
	switch {
	case err == nil:
		return state, nil
	case n.state.read().Closed:
		return nil, ports.ErrClosed
	case waiting.Err() != nil && ctx.Err() == nil:
		return nil, late
	}
	return nil, err
}

// notCaughtUp returns why a read fails because this instance is too far behind.
func (n *Node) notCaughtUp() error {
	if trouble := n.disk.Fault(); trouble != nil {
		return fmt.Errorf("%w: %w", ports.ErrNotCaughtUp, trouble)
	}
	return fmt.Errorf("%w: the entries that it lacks have not come within %v", ports.ErrNotCaughtUp, answerTimeout)
}

// askLeader asks the leader for the index that this instance must have applied to answer a
// read that began before the call. It checks that the leader of this cluster has answered:
// the address may be another instance's by now.
func (n *Node) askLeader() (uint64, error) {
	address, id := n.raft.LeaderWithID()
	if id == "" || id == raft.ServerID(n.config.ID) {
		return 0, ports.ErrNoLeader
	}
	ctx, cancel := context.WithTimeout(n.running, askTimeout)
	defer cancel()
	answer, err := n.config.Peers.ReadIndex(ctx, string(address))
	own := n.state.read().ClusterID
	switch {
	case err != nil:
		// The error is not wrapped: its ErrNotLeader would redirect our caller there again.
		return 0, fmt.Errorf("%w: instance %q leads, but can't be asked: %v", ports.ErrNoLeader, id, err)
	case answer.RaftID != string(id) || answer.ClusterID != own:
		return 0, fmt.Errorf("%w: at %s answers instance %q of cluster %q instead of %q of %q",
			ports.ErrNoLeader, address, answer.RaftID, answer.ClusterID, id, own)
	}
	return answer.Index, nil
}

// awaitApplied waits until the state machine has applied index, and returns its state.
// Raft's own applied index says only what was handed to the state machine.
func (n *Node) awaitApplied(ctx context.Context, index uint64) (*localState, error) {
	for {
		latest := n.state.read()
		switch {
		case latest.Applied >= index:
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
