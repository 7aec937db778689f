package httpapi

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/frames"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// writeBufferSize is the size of the buffer of a stream, and of a backup: how much goes to
// the socket at once.
const writeBufferSize = 32 << 10

var frameBuffers = sync.Pool{New: func() any { b := make([]byte, 0, writeBufferSize); return &b }}

// eventStream is the writing end of a stream of server-sent events. It holds at most one
// buffer of what is to be sent, and only while it writes.
//
// All methods but shutdown, abort and wake are for one goroutine.
type eventStream struct {
	w              http.ResponseWriter // until it is open
	r              *http.Request       // until it is open
	stalledTimeout time.Duration
	// keepAliveTimer sets commentDue, and wakes the stream, when a comment may be due.
	keepAliveTimer *time.Timer
	commentDue     atomic.Bool
	keepAlive      time.Duration
	lastFlush      time.Time
	metrics        *streamMetrics

	opened     bool // the header is sent, or can't be
	wroteEvent bool // the first event is sent
	// broken is the error of the first write that failed. The client may have only a part
	// of an event then, and nothing is sent any more, no last comment and no end of the
	// response: the client would take them for the rest of that event, and keep its id.
	broken error
	events int // since the last flush
	buffer *[]byte
	frames frames.Writer

	// woken holds a token when something may have happened that concerns the stream. One
	// channel serves for everything, because to wait for several takes several times as long.
	woken chan struct{}

	mu           sync.Mutex // guards what follows, and setting frames
	shuttingDown bool       // the server closes
	aborted      bool
}

type streamMetrics struct {
	open           prometheus.Gauge
	events, cutOff prometheus.Counter
}

func (m *metrics) stream(stream string) *streamMetrics {
	return &streamMetrics{
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

// open sends the header at once: a client that waits for it must not wait for the first
// event. seen is the revision of the registry that was read; nil if none was. contact is
// how many milliseconds ago this instance heard from a leader; empty if that does not
// matter.
func (e *eventStream) open(seen *domain.Revision, contact string) error {
	h := e.w.Header()
	h[contentTypeHeader] = streamType
	h[cacheControlHeader] = streamCacheControl
	// Without it nginx and other proxies hold events back until they have many.
	h["X-Accel-Buffering"] = unbuffered
	if seen != nil {
		h[revisionHeader] = []string{formatRevision(*seen)}
	}
	if contact != "" {
		h[contactHeader] = []string{contact}
	}
	e.opened = true
	e.metrics.open.Inc()
	writer, err := frames.Open(e.w, e.r, e.stalledTimeout, e.wake)
	e.w, e.r, e.broken = nil, nil, err
	e.lastFlush = time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frames = writer
	if e.shuttingDown {
		e.frames.ShortenDeadlines()
	}
	if e.aborted {
		e.frames.Abort()
	}
	return err
}

// event adds a whole event block to the buffer. flush sends it; event itself sends only
// full buffers.
func (e *eventStream) event(block []byte) error {
	if !e.wroteEvent {
		e.wroteEvent = true
		// Some clients would take a block of its own for an event without data.
		if err := e.write([]byte("retry: 1000\n")); err != nil {
			return err
		}
	}
	e.events++
	return e.write(block)
}

// comment sends text, which must be one line; no client takes it for an event.
func (e *eventStream) comment(text string) error {
	if err := e.write([]byte(": " + text + "\n\n")); err != nil {
		return err
	}
	return e.flush()
}

func (e *eventStream) write(b []byte) error {
	for {
		if e.buffer == nil {
			e.buffer = frameBuffers.Get().(*[]byte)
			*e.buffer = (*e.buffer)[:frames.Head]
		}
		n := min(len(b), writeBufferSize-frames.Tail-len(*e.buffer))
		*e.buffer = append(*e.buffer, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return nil
		}
		if err := e.flush(); err != nil {
			return err
		}
	}
}

// flush sends what is in the buffer, and puts off the next comment; with nothing in it, it
// does neither. Once it failed it sends nothing any more.
func (e *eventStream) flush() error {
	if e.buffer == nil {
		return nil
	}
	if e.broken == nil {
		e.broken = e.frames.Send(*e.buffer)
	}
	frameBuffers.Put(e.buffer)
	e.buffer = nil
	if e.broken != nil {
		return e.broken
	}
	e.metrics.events.Add(float64(e.events))
	e.events = 0
	e.lastFlush = time.Now()
	return nil
}

// untilComment is how long it is until a comment is due, if nothing is sent before.
func (e *eventStream) untilComment() time.Duration { return e.keepAlive - time.Since(e.lastFlush) }

// shutdown tells the stream to end, and shortens the deadlines of the current write and of
// each later one. Any goroutine may call it.
func (e *eventStream) shutdown() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.shuttingDown {
		return
	}
	e.shuttingDown = true
	e.wake()
	if e.frames != nil {
		e.frames.ShortenDeadlines()
	}
}

func (e *eventStream) isShuttingDown() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shuttingDown
}

// abort breaks the stream off. Any goroutine may call it.
func (e *eventStream) abort() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.aborted = true
	if e.frames != nil {
		e.frames.Abort()
	}
}

// isHijacked reports whether the stream has taken its connection from net/http, and goes
// on when its handler has returned.
func (e *eventStream) isHijacked() bool {
	return e.frames != nil && e.frames.Hijacked()
}

// close is called once, when the stream has ended. If the stream is not hijacked, its
// handler has not returned yet.
func (e *eventStream) close() {
	e.keepAliveTimer.Stop()
	if e.opened {
		e.metrics.open.Dec()
	}
	if e.frames != nil {
		e.frames.Finish(e.broken == nil)
	}
}

func (s *Server) newEventStream(w http.ResponseWriter, r *http.Request, m *streamMetrics) *eventStream {
	// A timer needs some time to fire, and a comment some to arrive: a tenth of
	// Config.KeepAlive is kept in reserve for that.
	keepAlive := s.config.KeepAlive - s.config.KeepAlive/10
	e := &eventStream{
		w:              w,
		r:              r,
		stalledTimeout: s.config.StalledTimeout,
		keepAlive:      keepAlive,
		metrics:        m,
		woken:          make(chan struct{}, 1),
	}
	e.keepAliveTimer = time.AfterFunc(keepAlive, func() {
		e.commentDue.Store(true)
		e.wake()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[e] = struct{}{}
	if s.isStopping() {
		e.shutdown()
	}
	if s.forced {
		e.abort()
	}
	return e
}

func (s *Server) closeEventStream(e *eventStream) {
	s.mu.Lock()
	delete(s.streams, e)
	s.mu.Unlock()
	s.notifier.remove(e)
	e.close()
}

// wake makes await return. Any goroutine may call it.
func (e *eventStream) wake() {
	select {
	case e.woken <- struct{}{}:
	default:
	}
}

// await returns when the stream is woken, or when changed is closed; changed may be nil. It
// sends comment if one is due. It returns ports.ErrClosed when the server closes, and
// context.Canceled when the client has gone.
func (e *eventStream) await(changed <-chan struct{}, comment string) error {
	if changed == nil {
		<-e.woken
	} else {
		select {
		case <-e.woken:
		case <-changed:
		}
	}
	return e.check(comment)
}

// check is await without the wait, for a caller that is busy and sends nothing meanwhile.
func (e *eventStream) check(comment string) error {
	switch {
	case e.frames.ClientGone():
		return context.Canceled
	case e.isShuttingDown():
		return ports.ErrClosed
	}
	if !e.commentDue.Load() {
		return nil
	}
	e.commentDue.Store(false)
	var err error
	if e.untilComment() <= 0 {
		err = e.comment(comment)
	}
	e.keepAliveTimer.Reset(e.untilComment())
	return err
}

// sleep is await until d is over.
func (e *eventStream) sleep(d time.Duration, comment string) error {
	over := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(over) })
	defer timer.Stop()
	for {
		if err := e.await(over, comment); err != nil {
			return err
		}
		select {
		case <-over:
			return nil
		default:
		}
	}
}
