package httpapi

import (
	"context"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// followCluster streams the events of the raft cluster. They have no ids: a client that
// reconnects starts with a snapshot.
func (s *Server) followCluster(out *eventStream, r request) (streamFunc, error) {
	source, err := r.query.source()
	if err != nil {
		return nil, err
	}
	var stream ports.ClusterStream
	var first ports.ClusterDelivery
	err = s.open(out, r, func(ctx context.Context) (seen *domain.Revision, err error) {
		if stream, err = s.config.Cluster.Follow(ctx, source); err != nil {
			return nil, err
		}
		first, _, err = stream.Next()
		return nil, err
	})
	deliver := func(d ports.ClusterDelivery) error { return deliverCluster(out, d) }
	return func() error { return deliverAll(out, first, stream.Next, deliver) }, err
}

func deliverCluster(out *eventStream, d ports.ClusterDelivery) error {
	if d.Snapshot != nil {
		if err := out.event(eventBlock("snapshot", clusterJSON(*d.Snapshot))); err != nil {
			return err
		}
	}
	for i := range d.Events {
		if out.isShuttingDown() {
			return ports.ErrClosed
		}
		event := &d.Events[i]
		if err := out.event(eventBlock(string(event.Type), clusterEventJSON(event))); err != nil {
			return err
		}
	}
	return out.flush()
}

func eventBlock(kind string, data []byte) []byte {
	return []byte("event: " + kind + "\ndata: " + string(data) + "\n\n")
}
