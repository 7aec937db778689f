package simulation

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

var (
	errRefused = fmt.Errorf("simulated: %w", syscall.ECONNREFUSED)
	errReset   = errors.New("connection reset")
)

// fabric is the network of one history. Every message takes a different time, so
// that hardly any two events coincide: that makes replays repeat. A link that is
// held keeps what is sent over it until it is freed, as TCP does. fabric is safe
// for concurrent use.
type fabric struct {
	seed  uint64
	least time.Duration // the least time that a message takes

	mu    sync.Mutex // guards the fields below, and every way
	links map[[2]string]*link
	ports map[string]*port
	conns []*conn // one side of each
}

// link is one direction between two addresses.
type link struct {
	random  *rand.Rand // of its own, so that one more message changes nothing elsewhere
	held    int        // number of faults that hold it
	slow    time.Duration
	changed chan struct{} // closed, and replaced, when it is freed
}

func newFabric(seed uint64) *fabric {
	random := rand.New(rand.NewPCG(seed, 1))
	return &fabric{
		seed:  seed,
		least: time.Duration(50+random.IntN(1500)) * time.Microsecond,
		links: map[[2]string]*link{},
		ports: map[string]*port{},
	}
}

// link returns the link between two addresses. The caller holds mu.
func (f *fabric) link(from, to string) *link {
	key := [2]string{from, to}
	if f.links[key] == nil {
		number := crc32.ChecksumIEEE([]byte(from + to))
		f.links[key] = &link{random: rand.New(rand.NewPCG(f.seed, uint64(number))), changed: make(chan struct{})}
	}
	return f.links[key]
}

// arrival returns when a message sent now arrives, unless the link is held. The caller
// holds mu.
func (f *fabric) arrival(l *link) time.Time {
	takes := f.least + time.Duration(l.random.Int64N(int64(f.least)))
	if l.slow > 0 {
		takes += time.Duration(l.random.Int64N(int64(l.slow)))
	}
	return time.Now().Add(takes)
}

func (f *fabric) hold(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link(from, to).held++
}

// free undoes hold. What was held arrives now.
func (f *fabric) free(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.link(from, to)
	l.held--
	close(l.changed)
	l.changed = make(chan struct{})
}

func (f *fabric) slowDown(from, to string, by time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link(from, to).slow = by
}

// reset breaks all connections between two addresses. Data in flight is lost.
func (f *fabric) reset(a, b string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = slices.DeleteFunc(f.conns, func(c *conn) bool {
		between := c.local == a && c.remote == b || c.local == b && c.remote == a
		if between {
			c.in.end(errReset)
			c.out.end(errReset)
		}
		return between
	})
}

// travel waits until a message that is sent now has arrived.
func (f *fabric) travel(ctx context.Context, from, to string) error {
	f.mu.Lock()
	l := f.link(from, to)
	at := f.arrival(l)
	f.mu.Unlock()
	for {
		f.mu.Lock()
		held, changed := l.held > 0, l.changed
		f.mu.Unlock()
		left := time.Until(at)
		switch {
		case held:
			left = longest
		case left <= 0:
			return ctx.Err()
		}
		if err := waitFor(ctx, left, changed); err != nil {
			return err
		}
	}
}

// longest is longer than any history.
const longest = time.Hour

// waitFor waits for most, or until changed is closed. It returns the error of ctx if
// ctx ends first.
func waitFor(ctx context.Context, most time.Duration, changed <-chan struct{}) error {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// port implements consensus.Network and net.Listener for one life of an instance.
type port struct {
	fabric  *fabric
	address string
	accept  func(net.Conn) error

	backlog chan net.Conn
	closed  chan struct{} // closed when the listener is closed
	running context.Context
	crash   context.CancelFunc
	going   sync.WaitGroup
}

func (f *fabric) newPort(address string) *port {
	p := &port{fabric: f, address: address, backlog: make(chan net.Conn, 64), closed: make(chan struct{})}
	p.running, p.crash = context.WithCancel(context.Background())
	return p
}

// Listen implements consensus.Network.
func (p *port) Listen(accept func(net.Conn) error) (net.Listener, error) {
	p.accept = accept
	p.fabric.mu.Lock()
	defer p.fabric.mu.Unlock()
	p.fabric.ports[p.address] = p
	return p, nil
}

// Dial implements consensus.Network.
func (p *port) Dial(ctx context.Context, to string) (net.Conn, error) {
	if p.running.Err() != nil {
		return nil, net.ErrClosed
	}
	if err := p.fabric.travel(ctx, p.address, to); err != nil {
		return nil, err
	}
	here, there := p.fabric.connect(p, to)
	if err := p.fabric.travel(ctx, to, p.address); err != nil {
		here.Close()
		return nil, err
	}
	if there == nil {
		return nil, errRefused
	}
	return here, nil
}

// connect returns both ends of a new connection. there is nil if nothing listens at
// to, or if the dialling process died in the meantime.
func (f *fabric) connect(from *port, to string) (here, there *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	forth := &way{fabric: f, link: f.link(from.address, to), wake: make(chan struct{})}
	back := &way{fabric: f, link: f.link(to, from.address), wake: make(chan struct{})}
	here = &conn{in: back, out: forth, local: from.address, remote: to}
	target := f.ports[to]
	if target == nil || from.running.Err() != nil {
		return here, nil
	}
	there = &conn{in: forth, out: back, local: to, remote: from.address}
	f.conns = append(f.conns, here)
	target.going.Go(func() { target.welcome(there) })
	return here, there
}

// welcome accepts a connection as demux does, with the same limit of two seconds.
func (p *port) welcome(c *conn) {
	ctx, cancel := context.WithTimeout(p.running, 2*time.Second)
	defer cancel()
	unbind := context.AfterFunc(ctx, func() { c.Close() })
	err := p.accept(c)
	if !unbind() || err != nil {
		c.Close()
		return
	}
	select {
	case p.backlog <- c:
	case <-p.closed:
		c.Close()
	}
}

// Accept implements net.Listener.
func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.backlog:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *port) Close() error {
	p.die()
	p.going.Wait()
	return nil
}

// die ends the port with its process: it stops listening, and the far ends of its
// connections see them closed.
func (p *port) die() {
	p.fabric.mu.Lock()
	defer p.fabric.mu.Unlock()
	if p.running.Err() != nil {
		return
	}
	p.crash()
	close(p.closed)
	if p.fabric.ports[p.address] == p {
		delete(p.fabric.ports, p.address)
	}
	p.fabric.conns = slices.DeleteFunc(p.fabric.conns, func(c *conn) bool {
		switch p.address {
		case c.local:
			c.in.end(net.ErrClosed)
			c.out.finish()
		case c.remote:
			c.out.end(net.ErrClosed)
			c.in.finish()
		default:
			return false
		}
		return true
	})
}

// Addr implements net.Listener.
func (p *port) Addr() net.Addr { return address(p.address) }

type address string

func (address) Network() string  { return "simulated" }
func (a address) String() string { return string(a) }

// conn is one end of a connection.
type conn struct {
	in, out       *way
	local, remote string
}

// way is one direction of a connection. The fabric's mu guards it.
type way struct {
	fabric   *fabric
	link     *link
	under    []message     // under way: sent and not read yet, in order
	err      error         // why it can't be read or written any more
	deadline time.Time     // of reads
	wake     chan struct{} // closed, and replaced, when there is something new to look at
}

// message is a chunk of bytes. No bytes mean the end of the connection.
type message struct {
	at    time.Time
	bytes []byte
}

func (w *way) alert() {
	close(w.wake)
	w.wake = make(chan struct{})
}

func (w *way) end(err error) {
	if w.err == nil {
		w.err = err
		w.alert()
	}
}

// finish lets data in flight arrive, followed by the end.
func (w *way) finish() { w.send(nil) }

func (w *way) send(bytes []byte) {
	at := w.fabric.arrival(w.link)
	if last := len(w.under) - 1; last >= 0 && at.Before(w.under[last].at) {
		at = w.under[last].at
	}
	w.under = append(w.under, message{at, bytes})
	w.alert()
}

// take reads what has arrived. If that is nothing, it returns how long to wait.
func (w *way) take(b []byte) (n int, wait time.Duration, err error) {
	now := time.Now()
	wait = longest
	if !w.deadline.IsZero() {
		wait = w.deadline.Sub(now)
	}
	switch {
	case w.err != nil:
		return 0, 0, w.err
	case wait <= 0:
		return 0, 0, timedOut{}
	case len(w.under) == 0 || w.link.held > 0:
		return 0, wait, nil
	case w.under[0].at.After(now):
		return 0, min(wait, w.under[0].at.Sub(now)), nil
	}
	first := &w.under[0]
	if len(first.bytes) == 0 {
		return 0, 0, io.EOF
	}
	n = copy(b, first.bytes)
	first.bytes = first.bytes[n:]
	if len(first.bytes) == 0 {
		w.under = w.under[1:]
	}
	return n, 0, nil
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	f := c.in.fabric
	for {
		f.mu.Lock()
		n, wait, err := c.in.take(b)
		wake, freed := c.in.wake, c.in.link.changed
		f.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-wake:
		case <-freed:
		}
		timer.Stop()
	}
}

// Write implements net.Conn. It never blocks.
func (c *conn) Write(b []byte) (int, error) {
	c.out.fabric.mu.Lock()
	defer c.out.fabric.mu.Unlock()
	if c.out.err != nil {
		return 0, c.out.err
	}
	c.out.send(slices.Clone(b))
	return len(b), nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	f := c.in.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.in.err == nil {
		c.in.end(net.ErrClosed)
		c.out.finish()
	}
	f.conns = slices.DeleteFunc(f.conns, func(other *conn) bool {
		return other == c && c.out.err != nil
	})
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address(c.local) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address(c.remote) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.fabric.mu.Lock()
	defer c.in.fabric.mu.Unlock()
	c.in.deadline = t
	c.in.alert()
	return nil
}

// SetWriteDeadline implements net.Conn. It does nothing, since writes never block.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// timedOut is a net.Error.
type timedOut struct{}

func (timedOut) Error() string   { return "deadline exceeded" }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }
