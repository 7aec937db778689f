package httpapi

import (
	"context"
	"net/http"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// followCluster streams what happens to the raft cluster. Its events have no
// ids: a client that comes back starts with the snapshot.
func (s *Server) followCluster(out *sink, r *http.Request) (course, error) {
	source, err := sourceOf(r.URL.Query())
	if err != nil {
		return nil, err
	}
	var stream ports.ClusterStream
	var first ports.ClusterDelivery
	var later <-chan struct{}
	err = s.open(out, r, func(ctx context.Context) error {
		var err error
		if stream, err = s.config.Cluster.Follow(ctx, source); err != nil {
			return err
		}
		first, later, err = stream.Next()
		return err
	})
	if err == nil && !out.opened {
		err = s.openSink(out, r, nil)
	}
	if r.Method == http.MethodHead && out.opened {
		return nil, nil
	}
	return func() error { return deliverAllOfCluster(out, stream, first, later) }, err
}

// deliverAllOfCluster sends first and all that comes after it, of which later tells,
// until the stream ends.
func deliverAllOfCluster(out *sink, stream ports.ClusterStream, first ports.ClusterDelivery, later <-chan struct{}) error {
	for delivery := first; ; {
		var err error
		if delivery.Empty() {
			err = out.await(later, "keep-alive")
		} else {
			err = deliverCluster(out, delivery)
		}
		if err == nil {
			delivery, later, err = stream.Next()
		}
		if err != nil {
			return err
		}
	}
}

func deliverCluster(out *sink, d ports.ClusterDelivery) error {
	if d.Snapshot != nil {
		if err := out.event(eventBlock("snapshot", clusterJSON(*d.Snapshot))); err != nil {
			return err
		}
	}
	for i := range d.Events {
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
