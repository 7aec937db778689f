package httpapi

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// atOnce is how much goes to the socket at once of what is pending, or of a backup.
const atOnce = 32 << 10

// farewell is how long the last words on a stream may take when the server
// closes: a socket that takes nothing must not hold that up.
const farewell = time.Second

var frameBuffers = sync.Pool{New: func() any { b := make([]byte, 0, atOnce); return &b }}

// sink is the writing end of a stream of server-sent events. It holds no more of
// what is pending than one buffer, and that only while it writes.
//
// All but hurry and cut is for one goroutine.
type sink struct {
	w       http.ResponseWriter // until it is open
	r       *http.Request       // until it is open
	stalled time.Duration
	// silence says now and then that a comment may be due.
	silence   *time.Timer
	due       atomic.Bool
	keepAlive time.Duration
	flushed   time.Time
	metrics   *sinkMetrics

	opened bool // the header is sent, or can't be
	begun  bool // the first event is sent
	// broken is why the client has perhaps no more than a part of an event. Nothing is
	// sent from then on, no last words and no end of the response: the client would take
	// them for the rest of that event, and keep its id. Nil: it has all that was sent.
	broken error
	events int // since the last flush
	buffer *[]byte
	out    outlet

	// woken holds a token when the stream should look what there is: one channel
	// for all, because to wait for several takes several times as long.
	woken chan struct{}

	mu      sync.Mutex // guards what follows, and setting out
	hurried bool       // the server closes
	severed bool
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
	out, err := openOutlet(o.w, o.r, o.stalled, o.wake)
	o.w, o.r, o.broken = nil, nil, err
	o.flushed = time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.out = out
	if o.hurried {
		out.hurry()
	}
	if o.severed {
		out.cut()
	}
	return err
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
	o.events++
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
	for {
		if o.buffer == nil {
			o.buffer = frameBuffers.Get().(*[]byte)
			*o.buffer = (*o.buffer)[:frameHead]
		}
		n := min(len(b), atOnce-frameTail-len(*o.buffer))
		*o.buffer = append(*o.buffer, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			return nil
		}
		if err := o.flush(); err != nil {
			return err
		}
	}
}

// hasPending reports whether there is anything to flush since the last time.
func (o *sink) hasPending() bool { return o.buffer != nil }

// flush sends everything that is pending, and begins a new silence. Once it failed it
// sends nothing any more.
func (o *sink) flush() error {
	if o.buffer == nil {
		return nil
	}
	if o.broken == nil {
		o.broken = o.out.send(*o.buffer)
	}
	frameBuffers.Put(o.buffer)
	o.buffer = nil
	if o.broken != nil {
		return o.broken
	}
	o.metrics.events.Add(float64(o.events))
	o.events = 0
	o.flushed = time.Now()
	return nil
}

// untilComment is how long the silence may last yet.
func (o *sink) untilComment() time.Duration { return o.keepAlive - time.Since(o.flushed) }

// hurry tells the stream to end, and leaves it little time for whatever it writes
// from now on, also for what it is writing now. Anybody may call it.
func (o *sink) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hurried {
		return
	}
	o.hurried = true
	o.wake()
	if o.out != nil {
		o.out.hurry()
	}
}

func (o *sink) isHurried() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hurried
}

// cut breaks the stream off. Anybody may call it.
func (o *sink) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.severed = true
	if o.out != nil {
		o.out.cut()
	}
}

// hasConn reports whether the stream has a connection that net/http has nothing to
// do with any more, not even its handler.
func (o *sink) hasConn() bool {
	_, own := o.out.(*wire)
	return own
}

// end is called when the stream has ended, before the handler returns if there still
// is one.
func (o *sink) end() {
	o.silence.Stop()
	if o.opened {
		o.metrics.open.Dec()
	}
	if o.out != nil {
		o.out.end(o.broken == nil)
	}
}

func (s *Server) newSink(w http.ResponseWriter, r *http.Request, m *sinkMetrics) *sink {
	// A timer needs some time to fire and a comment some to arrive: with a tenth
	// in hand no silence is longer than was promised.
	keepAlive := s.config.KeepAlive - s.config.KeepAlive/10
	o := &sink{
		w:         w,
		r:         r,
		stalled:   s.config.StalledTimeout,
		keepAlive: keepAlive,
		metrics:   m,
		woken:     make(chan struct{}, 1),
	}
	o.silence = time.AfterFunc(keepAlive, func() {
		o.due.Store(true)
		o.wake()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sinks[o] = struct{}{}
	if s.isStopping() {
		o.hurry()
	}
	if s.forced {
		o.cut()
	}
	return o
}

func (s *Server) endSink(o *sink) {
	s.mu.Lock()
	delete(s.sinks, o)
	s.mu.Unlock()
	s.waves.remove(o)
	o.end()
}

// wake makes the stream look what there is. Anybody may call it.
func (o *sink) wake() {
	select {
	case o.woken <- struct{}{}:
	default:
	}
}

// await returns when the stream is woken, or there is something in the channel
// changed; nil: nothing ever. It says comment where the stream was silent for as
// long as it may. It returns ports.ErrClosed when the server closes, and
// context.Canceled when the client goes.
func (o *sink) await(changed <-chan struct{}, comment string) error {
	if changed == nil {
		<-o.woken
	} else {
		select {
		case <-o.woken:
		case <-changed:
		}
	}
	return o.look(comment)
}

// look is await for who has something to do, and sends nothing meanwhile.
func (o *sink) look(comment string) error {
	switch {
	case o.out.gone():
		return context.Canceled
	case o.isHurried():
		return ports.ErrClosed
	}
	if !o.due.Load() {
		return nil
	}
	o.due.Store(false)
	var err error
	if o.untilComment() <= 0 {
		err = o.comment(comment)
	}
	o.silence.Reset(o.untilComment())
	return err
}

// pause is to await the end of a time.
func (o *sink) pause(d time.Duration, comment string) error {
	over := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(over) })
	defer timer.Stop()
	for {
		if err := o.await(over, comment); err != nil {
			return err
		}
		select {
		case <-over:
			return nil
		default:
		}
	}
}
