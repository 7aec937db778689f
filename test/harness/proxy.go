package harness

import (
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Direction is a direction in which bytes go through a Proxy.
type Direction int

// The directions, as seen from the client of the proxy.
const (
	Forth Direction = iota // to the target
	Back                   // from the target
)

// Proxy forwards connections to an address, and can delay or block traffic as a
// network can. Bytes that it accepted before a cut are delivered after the cut, in
// order, as TCP would. Its methods may be called from any goroutine.
type Proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	links  map[*link]struct{}
	delays [2]time.Duration
	cut    [2]bool
	from   int           // process whose connections are blocked, including later ones; 0: none
	healed chan struct{} // closed when a cut ends; replaced at each change
}

// link is one proxied connection.
type link struct {
	near, far net.Conn
	gone      chan struct{}
	once      sync.Once
	held      [2]bool // guarded by the proxy's mu
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.gone)
		_ = l.near.Close()
		if l.far != nil {
			_ = l.far.Close()
		}
	})
}

// NewProxy returns a proxy on a port of host that forwards to target until t ends.
// Nothing needs to listen at target yet.
func NewProxy(t testing.TB, host, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target, links: map[*link]struct{}{}, healed: make(chan struct{})}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Delay delays all bytes in the given direction by d.
func (p *Proxy) Delay(direction Direction, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delays[direction] = d
}

// Cut blocks the given directions, or both if none is given. Connections stay open
// and new ones are accepted, as when a network loses packets.
func (p *Proxy) Cut(directions ...Direction) { p.set(true, directions) }

// Hold is Cut for connections that are open now, but not for later ones.
func (p *Proxy) Hold(direction Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.held[direction] = true
	}
}

// cutFrom is Cut for the connections of one process, including later ones.
func (p *Proxy) cutFrom(pid int) {
	p.mu.Lock()
	p.from = pid
	open := slices.Collect(maps.Keys(p.links))
	p.mu.Unlock()
	p.holdThoseFrom(pid, open...)
}

// holdThoseFrom holds those links that a process has dialled, while that process is cut off.
// It takes long where the machine has many sockets, so it must not be called with mu held.
func (p *Proxy) holdThoseFrom(pid int, links ...*link) {
	ports := portsOf(pid)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range links {
		if p.from == pid && ports[farPort(l.near)] {
			l.held = [2]bool{true, true}
		}
	}
}

// Heal undoes Cut and Hold.
func (p *Proxy) Heal(directions ...Direction) { p.set(false, directions) }

func (p *Proxy) set(cut bool, directions []Direction) {
	if len(directions) == 0 {
		directions = []Direction{Forth, Back}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !cut {
		p.from = 0
	}
	for _, direction := range directions {
		p.cut[direction] = cut
		for l := range p.links {
			l.held[direction] = l.held[direction] && cut
		}
	}
	close(p.healed)
	p.healed = make(chan struct{})
}

// Reset closes all connections that are open now.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Reset()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client has already disconnected
		}
		l := &link{near: near, gone: make(chan struct{})}
		if !p.join(l) {
			l.close()
			continue
		}
		p.running.Go(func() {
			defer p.leave(l)
			if pid := p.cutOff(); pid != 0 {
				p.holdThoseFrom(pid, l)
			}
			p.serve(l)
		})
	}
}

func (p *Proxy) join(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

// cutOff returns the process whose connections are blocked; 0 if there is none.
func (p *Proxy) cutOff() (pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.from
}

func (p *Proxy) leave(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
	l.close()
}

func (p *Proxy) serve(l *link) {
	// No connection is established across a cut.
	if !p.pass(l, Forth) || !p.pass(l, Back) {
		return
	}
	far, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		return
	}
	if !p.meet(l, far) {
		_ = far.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.carry(l, l.near, far, Forth) })
	both.Go(func() { p.carry(l, far, l.near, Back) })
	both.Wait()
}

// meet stores the far end in l. It returns false if l is closed.
func (p *Proxy) meet(l *link, far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-l.gone:
		return false
	default:
		l.far = far
		return true
	}
}

// parcel is a chunk of bytes and when it is due at the other end.
type parcel struct {
	bytes []byte
	due   time.Time
}

// carry copies bytes from one end to the other until either is closed.
func (p *Proxy) carry(l *link, from, to net.Conn, direction Direction) {
	// A separate goroutine reads on while parcels wait, so a delay costs no throughput.
	parcels := make(chan parcel, 1024)
	var delivering sync.WaitGroup
	delivering.Go(func() {
		defer p.closeLink(l)
		for next := range parcels {
			if !p.await(l, next.due) || !p.pass(l, direction) {
				return
			}
			if _, err := to.Write(next.bytes); err != nil {
				return
			}
		}
	})
	defer delivering.Wait()
	defer close(parcels)
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			next := parcel{append([]byte(nil), buffer[:n]...), time.Now().Add(p.delay(direction))}
			select {
			case parcels <- next:
			case <-l.gone:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) closeLink(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.close()
}

func (p *Proxy) delay(direction Direction) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delays[direction]
}

// await waits until due. It returns false if l is closed before.
func (p *Proxy) await(l *link, due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.gone:
		return false
	}
}

// pass waits until direction is not blocked. It returns false if l is closed before.
func (p *Proxy) pass(l *link, direction Direction) bool {
	for {
		p.mu.Lock()
		cut, healed := p.cut[direction] || l.held[direction], p.healed
		p.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-healed:
		case <-l.gone:
			return false
		}
	}
}
