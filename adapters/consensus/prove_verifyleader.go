//go:build broken_read_verifyleader

package consensus

import (
	"context"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// prove trusts VerifyLeader, which counts answers to heartbeats that were sent before the
// read arrived.
func (n *Node) prove(ctx context.Context) (uint64, error) {
	if err := n.await(ctx, func() error { return n.raft.VerifyLeader().Error() }); err != nil {
		return 0, ports.ErrNotLeader
	}
	return 1, nil
}
