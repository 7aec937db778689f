// Package demux serves several protocols on one TCP port. The first byte of a
// connection names its lane; the rest of the stream belongs to the owner of that
// lane, for whom the lane is an ordinary net.Listener.
//
// Anybody can connect to it, so everything between accept and hand-over is
// bounded: how long it takes, how many connections do it at once, how many wait
// to be accepted. When a bound is reached the connections that cost the most are
// closed, so that hostile ones never lock out a peer.
//
// It never reads past the first byte, never interprets what follows, never
// retries a dial and never closes a connection that it has handed over, unless
// its lane was given a bound for them.
package demux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultHandshakeTimeout is what a zero Config.HandshakeTimeout means.
	DefaultHandshakeTimeout = 2 * time.Second

	// DefaultMaxHandshakes is what a zero Config.MaxHandshakes means. It is far
	// more than a cluster's peers need when all of them reconnect at once, and
	// costs a few megabytes when all of it is held by strangers.
	DefaultMaxHandshakes = 512
)

// A failed accept is mostly a lack of file descriptors: retrying at once would
// spin, and waiting long would keep peers out after the lack is over.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = 100 * time.Millisecond
)

// keepAlive finds a peer that vanished without a word in about half a minute.
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     15 * time.Second,
	Interval: 5 * time.Second,
	Count:    3,
}

// Config says where a Demux listens, and its bounds.
type Config struct {
	// Address is host:port. The host is an IPv4 address, a bracketed IPv6
	// address, a name (of its addresses one is bound, IPv4 first), or empty for
	// every address of the machine. Port 0 takes a free one: see Demux.Addr.
	Address string

	// HandshakeTimeout bounds the time from accept to hand-over, that is the
	// first byte and the lane's handshake together. Zero means
	// DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration

	// MaxHandshakes bounds how many connections may be between accept and
	// hand-over. One more evicts the oldest connection of the source (an IPv4
	// address or an IPv6 /64 network) that has the most. So a flood from one source
	// evicts only itself, and in a flood from everywhere each connection still has
	// the time that MaxHandshakes arrivals take. Zero means DefaultMaxHandshakes.
	MaxHandshakes int

	// Logger is told about rejected connections: the noteworthy kinds as
	// warnings, at most one of a kind in a second, everything else at debug
	// level. Nil logs nothing.
	Logger *slog.Logger
}

// Validate reports all that is wrong with c at once.
func (c Config) Validate() error {
	var faults []error
	if err := validAddress(c.Address); err != nil {
		faults = append(faults, fmt.Errorf("address %q: %w", c.Address, err))
	}
	if c.HandshakeTimeout < 0 {
		faults = append(faults, fmt.Errorf("handshake timeout %v is negative", c.HandshakeTimeout))
	}
	if c.MaxHandshakes < 0 {
		faults = append(faults, fmt.Errorf("maximum of handshakes %d is negative", c.MaxHandshakes))
	}
	return errors.Join(faults...)
}

func validAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		// The address is quoted by the caller; AddrError would repeat it.
		if fault, ok := errors.AsType[*net.AddrError](err); ok {
			return errors.New(fault.Err)
		}
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	return nil
}

// Demux is one listener and its lanes. Its methods may be called from any
// goroutine.
type Demux struct {
	config  Config
	log     *slog.Logger
	pending *limiter // accepted, not yet handed over
	done    chan struct{}

	mu       sync.Mutex // guards what follows until the next blank line
	listener *net.TCPListener
	closed   bool

	lanes   [256]*Lane // written under mu before Open or Close, only read after it
	running sync.WaitGroup

	accepted     atomic.Uint64
	acceptErrors atomic.Uint64
	rejected     [reasons]atomic.Uint64
	warned       [reasons]atomic.Int64 // Unix nanoseconds of the last warning
}

// New checks config and returns a Demux that holds nothing yet.
func New(config Config) (*Demux, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("demux: %w", err)
	}
	config.HandshakeTimeout = cmp.Or(config.HandshakeTimeout, DefaultHandshakeTimeout)
	config.MaxHandshakes = cmp.Or(config.MaxHandshakes, DefaultMaxHandshakes)
	return &Demux{
		config:  config,
		log:     cmp.Or(config.Logger, slog.New(slog.DiscardHandler)),
		pending: newLimiter(config.MaxHandshakes),
		done:    make(chan struct{}),
	}, nil
}

// Lane returns the listener of the connections whose first byte is first. Lanes
// are wired before Open: a byte that is taken and a Demux that is open or closed
// are errors.
func (d *Demux) Lane(first byte, config LaneConfig) (*Lane, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("demux: lane %#02x: %w", first, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, fmt.Errorf("demux: lane %#02x: %w", first, net.ErrClosed)
	case d.listener != nil:
		return nil, fmt.Errorf("demux: lane %#02x: lanes are added before Open", first)
	case d.lanes[first] != nil:
		return nil, fmt.Errorf("demux: lane %#02x exists already", first)
	}
	d.lanes[first] = newLane(d, first, config)
	return d.lanes[first], nil
}

// Open binds the address and starts accepting. ctx bounds only the resolution of
// a host name: the Demux lives on until Close, and until the name is resolved
// every other method waits. A failed Open holds nothing and may be repeated; a
// second one, and one after Close, is an error.
func (d *Demux) Open(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("demux: open: %w", net.ErrClosed)
	}
	if d.listener != nil {
		return errors.New("demux: open: already open")
	}
	listening := net.ListenConfig{KeepAliveConfig: keepAlive}
	listener, err := listening.Listen(ctx, "tcp", d.config.Address)
	if err != nil {
		return fmt.Errorf("demux: open: %w", err)
	}
	d.listener = listener.(*net.TCPListener) // what network "tcp" promises
	d.running.Go(func() { d.accept(d.listener) })
	return nil
}

// Close stops listening, closes what is not handed over yet, ends Accept of
// every lane with net.ErrClosed and waits for every goroutine of the Demux.
// Connections that were handed over stay open: their owners close them. Close
// may be called before Open and again.
func (d *Demux) Close() error {
	err := d.stopListening()
	d.running.Wait()
	return err
}

func (d *Demux) stopListening() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	close(d.done)
	// Not under mu: this calls Close of the connections that handshakes returned,
	// which is foreign code and may call Addr or Stats. And in a goroutine, so that
	// every Close waits for it, not only the first.
	d.running.Go(d.rejectAll)
	if d.listener == nil {
		return nil
	}
	if err := d.listener.Close(); err != nil {
		return fmt.Errorf("demux: close: %w", err)
	}
	return nil
}

// rejectAll closes every connection that is not handed over, now and from now on.
func (d *Demux) rejectAll() {
	d.pending.close(Shutdown)
	for _, lane := range d.lanes {
		if lane != nil {
			lane.shut(Shutdown)
		}
	}
}

// Addr is the address that is bound; before Open it is the configured one.
func (d *Demux) Addr() net.Addr {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener == nil {
		return configured(d.config.Address)
	}
	return d.listener.Addr()
}

// configured is an address that is not bound: net.Listener's users call
// Addr().String() without asking for nil.
type configured string

func (configured) Network() string  { return "tcp" }
func (a configured) String() string { return string(a) }

// accept admits connections until Close. It does nothing that waits for a
// client, a handshake or a lane's consumer.
func (d *Demux) accept(listener *net.TCPListener) {
	var pause time.Duration
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			if !d.acceptFailed(err, pause) {
				return
			}
			continue
		}
		pause = 0
		d.accepted.Add(1)
		e, victim := d.pending.add(conn, networkOf(conn.RemoteAddr()))
		if victim != nil {
			_ = victim.conn.Close()
		}
		if e == nil {
			d.reject(pendingConn{socket: conn}, Shutdown, nil)
			continue
		}
		d.running.Go(func() { d.handshake(e) })
	}
}

// acceptFailed waits before the next try; false if there is none. Only Close ends
// accepting: any other failure will pass.
func (d *Demux) acceptFailed(err error, pause time.Duration) bool {
	select {
	case <-d.done:
		return false
	default:
	}
	if d.acceptErrors.Add(1)%10 == 1 { // one line a second, when it lasts
		d.log.Warn("Can't accept connections, trying again.", "error", err, "pause", pause)
	}
	retry := time.NewTimer(pause)
	defer retry.Stop()
	select {
	case <-d.done:
		return false
	case <-retry.C:
		return true
	}
}

// handshake takes one connection from accept to its lane, or closes it.
func (d *Demux) handshake(e *entry) {
	// The bound is not a deadline on the connection: a handshake sets deadlines
	// of its own, and none of them may move this one.
	expired := make(chan struct{})
	bound := time.AfterFunc(d.config.HandshakeTimeout, func() {
		defer close(expired)
		d.pending.evict(e, HandshakeTimeout)
	})
	returned := false
	defer func() {
		if !bound.Stop() {
			<-expired // the timer has fired: wait for it, because Close waits for this goroutine
		}
		if !returned { // the handshake called runtime.Goexit, as a failing test does
			d.pending.release(e)
			d.reject(pendingConn{socket: e.conn}, HandshakePanic, errors.New("the handshake ended its goroutine"))
		}
	}()

	through := pendingConn{socket: e.conn}
	lane, err := d.findLane(e.conn)
	if lane != nil {
		through, err = lane.handshake(e.conn)
	}
	returned = true
	reason := reasonOf(err)
	// If the connection was evicted, an error of it is only an effect of that;
	// except for a panic, which would not be told otherwise.
	if !d.pending.release(e) && reason != HandshakePanic {
		reason, err = e.why, nil
		if reason == HandshakeTimeout && lane == nil {
			reason = Silent
		}
	}
	if reason == none {
		reason = lane.deliver(through)
	}
	if reason != none {
		d.reject(through, reason, err)
	}
}

// findLane reads the first byte, and no other: the next one belongs to the lane.
func (d *Demux) findLane(conn *net.TCPConn) (*Lane, error) {
	var first [1]byte
	if _, err := conn.Read(first[:]); err != nil {
		return nil, rejection{Disconnected, err}
	}
	lane := d.lanes[first[0]]
	if lane == nil {
		return nil, rejection{UnknownLane, fmt.Errorf("first byte %#02x", first[0])}
	}
	return lane, nil
}

// reject closes a connection that is not handed over, and accounts for it.
func (d *Demux) reject(through pendingConn, reason Reason, cause error) {
	through.discard()
	d.rejected[reason].Add(1)
	d.report(reason, through.socket.RemoteAddr(), cause)
}
