package httpapi

import (
	"context"
	"net/http"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Notifier is a notifier whose streams do nothing but count their wake-ups.
type Notifier struct {
	*notifier
	streams []*eventStream
}

func NewNotifier(local ports.Local, streams int) *Notifier {
	w := &Notifier{notifier: newNotifier(local)}
	for range streams {
		out := &eventStream{woken: make(chan struct{}, 1)}
		w.streams = append(w.streams, out)
		w.add(out)
	}
	return w
}

func (w *Notifier) Run(ctx context.Context) { w.run(ctx) }

func (w *Notifier) NotifyAll() { w.notifyAll() }

// Woken returns the number of streams that were woken since the last call.
func (w *Notifier) Woken() int {
	woken := 0
	for _, out := range w.streams {
		select {
		case <-out.woken:
			woken++
		default:
		}
	}
	return woken
}

// Await returns when this stream is woken.
func (w *Notifier) Await(stream int) { <-w.streams[stream].woken }

// NewHTTP returns the http.Server of s, for tests that bring their own connections.
func (s *Server) NewHTTP() *http.Server { return s.newHTTP() }

// ClusterSnapshotLength returns the length of the first event of a stream of the cluster.
func ClusterSnapshotLength(c domain.Cluster) int {
	return len(eventBlock("snapshot", clusterJSON(c)))
}
