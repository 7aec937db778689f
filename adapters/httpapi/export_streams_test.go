package httpapi

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// HijackedConn is a hijackedConn whose frames are strings.
type HijackedConn struct{ *hijackedConn }

func OpenHijackedConn(conn net.Conn, header http.Header, stalled time.Duration) (*HijackedConn, error) {
	w, err := openHijackedConn(conn, header, stalled, func() {})
	return &HijackedConn{w}, err
}

func (w *HijackedConn) Send(text string) error {
	return w.writeFrame(append(make([]byte, frameHead), text...))
}
func (w *HijackedConn) ShortenDeadlines() { w.shortenDeadlines() }
func (w *HijackedConn) ClientGone() bool  { return w.clientGone() }
func (w *HijackedConn) Finish(whole bool) { w.finish(whole) }

// FrameWriter is a frameWriter whose frames are strings.
type FrameWriter struct{ frameWriter }

func OpenFrameWriter(w http.ResponseWriter, r *http.Request, stalled time.Duration) (FrameWriter, error) {
	frames, err := openFrameWriter(w, r, stalled, func() {})
	return FrameWriter{frames}, err
}

func (w FrameWriter) Send(text string) error {
	return w.writeFrame(append(make([]byte, frameHead), text...))
}
func (w FrameWriter) ShortenDeadlines() { w.shortenDeadlines() }
func (w FrameWriter) Finish()           { w.finish(true) }

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
