//go:build !broken_read_local && !broken_read_verifyleader

package consensus

import "context"

// prove names the index that a read which begins now must be answered from, once
// it has proven that this instance leads.
//
// The other files that define it make builds that are broken on purpose: the
// linearizability test must find what is wrong with each of them.
func (n *Node) prove(ctx context.Context) (uint64, error) {
	if err := n.awaitOpening(ctx); err != nil {
		return 0, err
	}
	return n.gate.readIndex(ctx)
}

// awaitOpening returns at once where another instance leads. A new leader that
// has not opened its term yet is asked by everybody who was sent on to it; it
// has them wait for that one entry instead of sending them away.
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
