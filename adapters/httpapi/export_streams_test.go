package httpapi

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Wire is a wire, to which frames are strings.
type Wire struct{ *wire }

func OpenWire(conn net.Conn, header http.Header, stalled time.Duration) (*Wire, error) {
	w, err := openWire(conn, header, stalled, func() {})
	return &Wire{w}, err
}

func (w *Wire) Send(text string) error { return w.send(append(make([]byte, frameHead), text...)) }
func (w *Wire) Hurry()                 { w.hurry() }
func (w *Wire) Gone() bool             { return w.gone() }
func (w *Wire) End(whole bool)         { w.end(whole) }

// Waves wakes streams that do nothing else.
type Waves struct {
	*waves
	streams []*sink
}

func NewWaves(local ports.Local, streams int) *Waves {
	w := &Waves{waves: newWaves(local)}
	for range streams {
		out := &sink{woken: make(chan struct{}, 1)}
		w.streams = append(w.streams, out)
		w.add(out)
	}
	return w
}

func (w *Waves) Run(ctx context.Context) { w.run(ctx) }

func (w *Waves) Wake() { w.wake() }

// Woken is how many streams were woken since it was called last.
func (w *Waves) Woken() int {
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

// Await returns when one of the streams is woken.
func (w *Waves) Await(stream int) { <-w.streams[stream].woken }

// NewHTTP is what serves connections, for tests that bring theirs.
func (s *Server) NewHTTP() *http.Server { return s.newHTTP() }

// ClusterSnapshotLength is how long the event is with which a stream of the cluster begins.
func ClusterSnapshotLength(c domain.Cluster) int {
	return len(eventBlock("snapshot", clusterJSON(c)))
}
