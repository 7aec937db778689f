package app

import (
	"context"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// askTimeout bounds a question to another instance.
const askTimeout = time.Second

// Inquiry asks other instances who they are, and tells who this one is: it implements
// ports.Self. All fields must be set. Safe for concurrent use.
type Inquiry struct {
	// Self is this instance, without ClusterID, Applied and Quarantined: Identity takes
	// these from Local.
	Self  ports.Identity
	Local ports.Local
	Peers ports.Peers
	// Formats learns which format each member reads.
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

// identifyMember is identify for a member of the cluster. It also records the format that
// the member reads.
func (i *Inquiry) identifyMember(ctx context.Context, id, raftAddress string) (ports.Identity, error) {
	identity, err := i.identify(ctx, id, raftAddress)
	if err == nil {
		i.Formats.Heard(id, identity.Format)
	}
	return identity, err
}

// identify asks the instance at raftAddress who it is. An address can change hands, so the
// answer must come from the instance named id, in this cluster or in none. Errors:
// ErrUnreachable, ErrIDMismatch, ErrOtherCluster, and that of ctx.
func (i *Inquiry) identify(ctx context.Context, id, raftAddress string) (ports.Identity, error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	identity, err := i.Peers.Identify(asking, raftAddress)
	own := i.Identity().ClusterID
	switch {
	case err != nil && ctx.Err() != nil:
		// The caller gave up; that says nothing about the instance.
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
