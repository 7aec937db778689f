//go:build !broken_read_local && !broken_read_verifyleader

package consensus

import "context"

// prove names the index that a read which begins now must be answered from, once
// it has proven that this instance leads.
//
// The other files that define it make builds that are broken on purpose: the
// linearizability test must find what is wrong with each of them.
func (n *Node) prove(ctx context.Context) (uint64, error) { return n.gate.pass(ctx) }
