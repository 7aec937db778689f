package consensus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// transferPause is the pause between two looks at another instance's progress, and between
// two attempts to hand over leadership while raft is busy with an earlier one.
const transferPause = 10 * time.Millisecond

// Roster implements ports.Membership. It returns the committed membership: raft's latest one
// may never be committed.
func (n *Node) Roster(ctx context.Context) (domain.Roster, error) {
	state, err := n.read(ctx)
	if err != nil {
		return domain.Roster{}, err
	}
	return state.LastCommitted().Roster, nil
}

// RosterHere implements ports.Membership.
func (n *Node) RosterHere(ctx context.Context) (domain.Roster, error) {
	state, err := n.readHere(ctx)
	if err != nil {
		return domain.Roster{}, err
	}
	return state.LastCommitted().Roster, nil
}

// Add implements ports.Membership.
func (n *Node) Add(ctx context.Context, instance domain.Instance) error {
	return n.changeMembership(ctx, func(current domain.Roster) ([]change, error) {
		steps, err := current.StepsFor(instance)
		if slices.ContainsFunc(steps, func(s domain.Step) bool { return s.Kind == domain.Demote }) {
			err = n.CanSpare(ctx, instance.ID)
		}
		changes := make([]change, len(steps))
		for i, step := range steps {
			changes[i] = func() raft.IndexFuture { return n.proposeStep(step) }
		}
		return changes, err
	})
}

func (n *Node) proposeStep(step domain.Step) raft.IndexFuture {
	id, address := raft.ServerID(step.Instance.ID), raft.ServerAddress(step.Instance.RaftAddress)
	switch step.Kind {
	case domain.SetVoter:
		return n.raft.AddVoter(id, address, 0, enqueueTimeout)
	case domain.SetNonvoter:
		return n.raft.AddNonvoter(id, address, 0, enqueueTimeout)
	case domain.Demote:
		return n.raft.DemoteVoter(id, 0, enqueueTimeout)
	}
	panic(fmt.Sprintf("consensus: unknown step %d", step.Kind))
}

// AddPromotion implements ports.Promotions.
func (n *Node) AddPromotion(ctx context.Context, id string) error {
	return n.proposePromotion(ctx, codec.Promotion{ID: id})
}

// RemovePromotion implements ports.Promotions.
func (n *Node) RemovePromotion(ctx context.Context, id string) error {
	return n.proposePromotion(ctx, codec.Promotion{ID: id, Settled: true})
}

func (n *Node) proposePromotion(ctx context.Context, p codec.Promotion) error {
	if err := n.refusal(ctx); err != nil {
		return err
	}
	if err := n.checkAllCanRead(p); err != nil {
		return err
	}
	_, err := n.apply(ctx, codec.EncodeEntry(p))
	return err
}

// Remove implements ports.Membership.
func (n *Node) Remove(ctx context.Context, id string) error {
	return n.changeMembership(ctx, func(current domain.Roster) ([]change, error) {
		if err := current.CheckRemoval(id); err != nil {
			return nil, err
		}
		return []change{func() raft.IndexFuture {
			return n.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout)
		}}, n.CanSpare(ctx, id)
	})
}

// CanSpare implements ports.Membership. Raft stops counting a voter as soon as its removal is
// proposed, so the removal is committed by a majority of the remaining voters, or never.
// That majority must acknowledge a heartbeat that was sent after the call, and have what
// this instance's log had then, within an election timeout.
func (n *Node) CanSpare(ctx context.Context, id string) error {
	voters, index := n.voters(), n.lastIndex()
	left := slices.DeleteFunc(slices.Clone(voters), func(s raft.Server) bool { return s.ID == raft.ServerID(id) })
	if len(left) == len(voters) || len(left) == 0 {
		return nil // it is no voter, or the last one, whose removal domain.Roster refuses
	}
	needed := len(left)/2 + 1
	others := make([]raft.ServerID, 0, len(left))
	for _, voter := range left {
		if voter.ID == raft.ServerID(n.config.ID) {
			needed--
		} else {
			others = append(others, voter.ID)
		}
	}
	term, _ := n.leads()
	moment := n.evidence.begin()
	n.sendHeartbeats(others, term)
	late := time.NewTimer(n.config.Timing.ElectionTimeout)
	defer late.Stop()
	for {
		away := slices.DeleteFunc(slices.Clone(others), func(id raft.ServerID) bool {
			return n.evidence.since(id, term, moment) && n.announced.reached(id) >= index
		})
		if len(others)-len(away) >= needed {
			return nil
		}
		now, _ := n.leads()
		if err := n.refusal(ctx); err != nil || now != term {
			return cmp.Or(err, ports.ErrNotLeader) // which is why nobody answers
		}
		select {
		case <-time.After(transferPause):
		case <-late.C:
			return fmt.Errorf("%w: of the %d voters that would be left, these don't answer or lack earlier entries: %q", ports.ErrNoMajorityLeft, len(left), away)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// change is one change of the membership that raft can commit.
type change func() raft.IndexFuture

// changeMembership lets one change at a time read the membership and change it: raft's own
// guard, the index of the previous configuration, is not used (it is always 0).
func (n *Node) changeMembership(ctx context.Context, plan func(domain.Roster) ([]change, error)) error {
	select {
	case n.membership <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	release := sync.OnceFunc(func() { <-n.membership })
	changes, err := n.planChanges(ctx, plan)
	if err != nil || len(changes) == 0 {
		release()
		return err
	}
	err = n.await(ctx, func() error {
		// Not as soon as the caller gives up: raft already shows the membership that it
		// has not committed yet, so the next change would take it for committed.
		defer release()
		defer n.refreshState()
		return commitChanges(changes)
	})
	if errors.Is(err, ports.ErrClosed) {
		release() // nothing was begun
	}
	return err
}

// planChanges plans a change; the caller holds the token. Raft's latest membership is
// committed then: earlier leaders' changes precede the opening of this term, and no change
// of this leader is under way.
func (n *Node) planChanges(ctx context.Context, plan func(domain.Roster) ([]change, error)) ([]change, error) {
	current, err := n.Roster(ctx)
	if err != nil {
		return nil, err
	}
	return plan(current)
}

func commitChanges(changes []change) error {
	for i, begin := range changes {
		err := begin().Error()
		switch {
		case err != nil && i > 0:
			// Not wrapped: whatever err says of this change, the earlier ones did happen.
			return fmt.Errorf("%d of %d changes were made: %v", i, len(changes), err)
		case err != nil:
			return err
		}
	}
	return nil
}

// HandOver implements ports.Leadership. Raft would choose the voter whose log is
// longest, which may be one that died a moment ago.
func (n *Node) HandOver(ctx context.Context, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.raft == nil || n.raft.State() != raft.Leader {
		return ports.ErrNotLeader
	}
	successors := n.successors()
	if to != "" {
		if err := n.roster().CheckSuccessor(to); err != nil {
			return err
		}
		successors = slices.DeleteFunc(successors, func(s raft.Server) bool { return s.ID != raft.ServerID(to) })
	}
	if len(successors) == 0 {
		return fmt.Errorf("%w: there is no other", ports.ErrNoSuccessor)
	}
	var faults []error
	toldOne := false
	for _, voter := range successors {
		told, err := n.handOverTo(ctx, voter)
		toldOne = toldOne || told
		if n.raft.State() != raft.Leader {
			n.refreshState()
			if !toldOne {
				return ports.ErrNotLeader // it lost leadership by itself, perhaps to nobody
			}
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(append(faults, ctx.Err())...)
		}
		faults = append(faults, fmt.Errorf("%q: %w", voter.ID, cmp.Or(err, errNoTakeover)))
	}
	return fmt.Errorf("%w: %w", ports.ErrNoSuccessor, errors.Join(faults...))
}

var (
	errNoTakeover  = errors.New("it was told to take over, but did not")
	errNotCaughtUp = errors.New("it does not answer, or lacks earlier entries")
)

// handOverTo returns when raft's attempt ends: after an election timeout for the voter to
// catch up, another one for the transfer, and the time of one RPC if the previous voter is
// silent. Unless told is true, the voter was certainly not told to take over.
func (n *Node) handOverTo(ctx context.Context, voter raft.Server) (told bool, err error) {
	for {
		if err := n.awaitCaughtUp(ctx, voter.ID); err != nil {
			return false, err
		}
		err := n.wait(ctx, func() error { return n.raft.LeadershipTransferToServer(voter.ID, voter.Address).Error() })
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return !errors.Is(err, raft.ErrNotLeader), err
		}
		// Raft has not finished its attempt with the previous voter.
		select {
		case <-time.After(transferPause):
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// awaitCaughtUp waits until a voter answers, and has what this instance's log had at the
// call, but no longer than an election timeout. Raft 1.7.3 waits for that too, but rejects
// all writes meanwhile; and while nothing can be sent to the voter, because it is away or is
// being sent a snapshot, its second attempt does not end, and it rejects writes all along.
func (n *Node) awaitCaughtUp(ctx context.Context, voter raft.ServerID) error {
	index := n.lastIndex()
	late := time.NewTimer(n.config.Timing.ElectionTimeout)
	defer late.Stop()
	for n.announced.reached(voter) < index || time.Since(n.evidence.lastHeard(voter)) > n.config.Timing.HeartbeatTimeout/2 {
		select {
		case <-time.After(transferPause):
		case <-late.C:
			return errNotCaughtUp
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// successors returns the other voters: those with most of the log first, and of equals those
// that were heard from last.
func (n *Node) successors() []raft.Server {
	others := slices.DeleteFunc(n.voters(), func(s raft.Server) bool { return s.ID == raft.ServerID(n.config.ID) })
	slices.SortFunc(others, func(a, b raft.Server) int {
		return cmp.Or(
			cmp.Compare(n.announced.reached(b.ID), n.announced.reached(a.ID)),
			n.evidence.lastHeard(b.ID).Compare(n.evidence.lastHeard(a.ID)),
		)
	})
	return others
}
