//go:build !broken_read_local && !broken_read_verifyleader

package consensus

import "context"

// prove proves that this instance leads, and returns the index that must be applied before
// a read that begins now may be answered.
//
// The other files that define prove make builds that are broken on purpose: the
// linearizability test must find the fault of each.
func (n *Node) prove(ctx context.Context) (uint64, error) {
	if err := n.awaitOpening(ctx); err != nil {
		return 0, err
	}
	return n.gate.readIndex(ctx)
}

// awaitOpening waits until this instance, if it leads, has opened its term; otherwise it
// returns at once. A new leader gets the reads of all clients that were redirected to it:
// they wait for its opening entry instead of being refused.
func (n *Node) awaitOpening(ctx context.Context) error {
	for {
		latest := n.state.read()
		if term, leads := n.leads(); !leads || latest.openTerm == term || latest.Closed {
			return nil
		}
		select {
		case <-latest.later:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
