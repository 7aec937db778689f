package app

import (
	"context"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// askTimeout bounds the question to another instance.
const askTimeout = time.Second

// Inquiry asks other instances who they are, and says who this one is: it implements
// ports.Self. All of Self but ClusterID, Applied and Quarantined, which are asked of Local,
// and the ports must be given. Safe for concurrent use.
type Inquiry struct {
	Self  ports.Identity
	Local ports.Local
	Peers ports.Peers
	// Formats is told what instances say of theirs.
	Formats ports.Formats
}

// Identity implements ports.Self.
func (i *Inquiry) Identity() ports.Identity {
	self := i.Self
	state, _ := i.Local.State()
	self.ClusterID, self.Applied = state.ClusterID, state.Applied
	self.Quarantined = state.Quarantine != ""
	return self
}

// hearFrom identifies a member at its address, and notes what it says of its format.
func (i *Inquiry) hearFrom(ctx context.Context, id, raftAddress string) (ports.Identity, error) {
	identity, err := i.identify(ctx, id, raftAddress)
	if err == nil {
		i.Formats.Heard(id, identity.Format)
	}
	return identity, err
}

// identify asks the instance at raftAddress, and takes no answer but that of
// the instance named id, in this cluster or in none: an address can change hands. Errors:
// ErrUnreachable, ErrIDMismatch, ErrOtherCluster, and that of ctx.
func (i *Inquiry) identify(ctx context.Context, id, raftAddress string) (ports.Identity, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	identity, err := i.Peers.Identify(asking, raftAddress)
	own := i.Identity().ClusterID
	switch {
	case err != nil && ctx.Err() != nil:
		// Which says nothing about the instance.
		return ports.Identity{}, fmt.Errorf("ask %q at %s: %w", id, raftAddress, ctx.Err())
	case err != nil:
		return ports.Identity{}, fmt.Errorf("%w: nobody answers for %q at %s: %v", domain.ErrUnreachable, id, raftAddress, err)
	case identity.RaftID != id:
		return ports.Identity{}, fmt.Errorf("%w: at %s answers instance %q, not %q", domain.ErrIDMismatch, raftAddress, identity.RaftID, id)
	case identity.ClusterID != "" && own != "" && identity.ClusterID != own:
		return ports.Identity{}, fmt.Errorf("%w: instance %q at %s belongs to cluster %s, this one is %s",
			domain.ErrOtherCluster, id, raftAddress, identity.ClusterID, own)
	}
	return identity, nil
}
