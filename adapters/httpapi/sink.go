package httpapi

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

const (
	// pending is how much of what is pending goes to the socket at once.
	pending = 32 << 10

	// piece is how much a socket must take within Config.StalledTimeout. It is
	// small so that one that takes anything at all is left alone.
	piece = 8 << 10

	// farewell is how long the last words on a stream may take when the server
	// closes: a socket that takes nothing must not hold that up.
	farewell = time.Second
)

var pendingBuffers = sync.Pool{New: func() any { b := make([]byte, 0, pending); return &b }}

// sink is the writing end of a stream of server-sent events. It holds no more of
// what is pending than one buffer, and that only while it writes.
//
// All but hurry is for one goroutine.
type sink struct {
	w       http.ResponseWriter
	control *http.ResponseController
	stalled time.Duration
	// silence fires when it is time for a comment.
	silence   *time.Timer
	keepAlive time.Duration
	metrics   *sinkMetrics

	opened bool // the header is sent
	begun  bool // the first event is sent
	buffer *[]byte

	mu      sync.Mutex
	hurried bool
	ended   bool
}

type sinkMetrics struct {
	open           prometheus.Gauge
	events, cutOff prometheus.Counter
}

func (m *metrics) sink(stream string) *sinkMetrics {
	return &sinkMetrics{
		open:   m.streams.WithLabelValues(stream),
		events: m.events.WithLabelValues(stream),
		cutOff: m.cutOff.WithLabelValues(stream),
	}
}

var (
	streamType         = []string{"text/event-stream"}
	streamCacheControl = []string{"no-cache, no-transform"}
	unbuffered         = []string{"no"}
)

// open sends the header, at once: a client that waits for it must not wait for
// the first event. seen is the state of the registry; nil where there is none.
// contact is how many milliseconds ago a leader was heard from; empty where that
// does not matter.
func (o *sink) open(seen *domain.Revision, contact string) error {
	h := o.w.Header()
	h[contentTypeHeader] = streamType
	h[cacheControlHeader] = streamCacheControl
	// nginx and its like would hold events back until they have many.
	h["X-Accel-Buffering"] = unbuffered
	if seen != nil {
		h[revisionHeader] = []string{formatRevision(*seen)}
	}
	if contact != "" {
		h[contactHeader] = []string{contact}
	}
	o.opened = true
	o.metrics.open.Inc()
	o.w.WriteHeader(http.StatusOK)
	return o.flush()
}

// event takes a whole event block, to be sent by flush, or before that when
// much is pending.
func (o *sink) event(block []byte) error {
	if !o.begun {
		o.begun = true
		// In a block of its own it would be an event without data to some.
		if err := o.write([]byte("retry: 1000\n")); err != nil {
			return err
		}
	}
	o.metrics.events.Inc()
	return o.write(block)
}

// comment sends text, which no client takes for an event.
func (o *sink) comment(text string) error {
	line := ": " + strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, text) + "\n\n"
	if err := o.write([]byte(line)); err != nil {
		return err
	}
	return o.flush()
}

func (o *sink) write(b []byte) error {
	if o.buffer == nil {
		o.buffer = pendingBuffers.Get().(*[]byte)
	}
	if len(*o.buffer)+len(b) > pending {
		if err := o.empty(); err != nil {
			return err
		}
	}
	if len(b) > pending {
		return o.send(b)
	}
	*o.buffer = append(*o.buffer, b...)
	return nil
}

// empty sends what the buffer holds.
func (o *sink) empty() error {
	err := o.send(*o.buffer)
	*o.buffer = (*o.buffer)[:0]
	return err
}

func (o *sink) send(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), piece)
		if err := o.deadline(o.stalled); err != nil {
			return err
		}
		if _, err := o.w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// hasPending reports whether there is anything to flush since the last time.
func (o *sink) hasPending() bool { return o.buffer != nil }

// flush sends everything that is pending, and begins a new silence.
func (o *sink) flush() error {
	if o.buffer != nil {
		err := o.empty()
		pendingBuffers.Put(o.buffer)
		o.buffer = nil
		if err != nil {
			return err
		}
	}
	if err := o.deadline(o.stalled); err != nil {
		return err
	}
	if err := o.control.Flush(); err != nil {
		return err
	}
	o.silence.Reset(o.keepAlive)
	// HTTP/2 takes the deadline as one for the whole stream, and resets an idle
	// one when it passes.
	return o.deadline(0)
}

// deadline gives the socket d from now to take something; zero: for ever.
func (o *sink) deadline(d time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hurried {
		d = farewell
	}
	if d == 0 {
		return o.control.SetWriteDeadline(time.Time{})
	}
	return o.control.SetWriteDeadline(time.Now().Add(d))
}

// hurry leaves the stream little time for whatever it writes from now on, also
// for what it is writing now. Anybody may call it.
func (o *sink) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hurried = true
	if !o.ended {
		_ = o.control.SetWriteDeadline(time.Now().Add(farewell))
	}
}

// end is called before the handler returns: after that the controller must not
// be used. net/http still has an end of response to write, which must not wait
// for ever either.
func (o *sink) end() {
	o.silence.Stop()
	if o.opened {
		o.metrics.open.Dec()
		_ = o.deadline(o.stalled)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}

func (s *Server) newSink(w http.ResponseWriter, m *sinkMetrics) *sink {
	// A timer needs some time to fire and a comment some to arrive: with a tenth
	// in hand no silence is longer than was promised.
	keepAlive := s.config.KeepAlive - s.config.KeepAlive/10
	o := &sink{
		w:         w,
		control:   http.NewResponseController(w),
		stalled:   s.config.StalledTimeout,
		silence:   time.NewTimer(keepAlive),
		keepAlive: keepAlive,
		metrics:   m,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sinks[o] = struct{}{}
	if s.stopped {
		o.hurried = true
	}
	return o
}

func (s *Server) endSink(o *sink) {
	s.mu.Lock()
	delete(s.sinks, o)
	s.mu.Unlock()
	o.end()
}

// await returns when woken is closed, or limit is over, zero being none. While
// it waits it says comment as often as the stream must not be silent. It returns
// ports.ErrClosed when the server closes, and ctx's error when the client goes.
func (s *Server) await(ctx context.Context, out *sink, woken <-chan struct{}, limit time.Duration, comment string) error {
	var over <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		over = timer.C
	}
	for {
		select {
		case <-woken:
			return nil
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping.Done():
			return ports.ErrClosed
		case <-out.silence.C:
			if err := out.comment(comment); err != nil {
				return err
			}
		}
	}
}
