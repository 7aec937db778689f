package demux

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// limiter is a bounded set of connections in the order of their arrival. When it
// is full, a new connection evicts the oldest one of the source that has the most
// connections. A limiter owns no goroutine; it is safe for concurrent use.
type limiter struct {
	max int

	mu      sync.Mutex
	entries *list.List // of *entry, oldest first
	sources map[netip.Prefix]*source
	closed  bool
}

// source is a network, and the number of its connections.
type source struct {
	network netip.Prefix
	count   int
}

// entry is one connection in a limiter.
type entry struct {
	conn *net.TCPConn
	why  Reason // why it was evicted; read it only after release returned false

	from  *source
	place *list.Element // nil once it is not in the limiter any more
}

func newLimiter(max int) *limiter {
	return &limiter{max: max, entries: list.New(), sources: make(map[netip.Prefix]*source)}
}

// add adds conn, and evicts another one with reason Overload if there is no room: the
// victim, whose connection the caller must close. After close it does nothing, and
// newcomer is nil.
func (l *limiter) add(conn *net.TCPConn, network netip.Prefix) (newcomer, victim *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil
	}
	if l.entries.Len() >= l.max {
		victim = l.greediest()
		l.remove(victim, Overload)
	}
	from := l.sources[network]
	if from == nil {
		from = &source{network: network}
		l.sources[network] = from
	}
	from.count++
	newcomer = &entry{conn: conn, from: from}
	newcomer.place = l.entries.PushBack(newcomer)
	return newcomer, victim
}

// greediest returns the oldest entry of the source with the most entries. Scanning
// the few hundred entries is cheaper than the accept that needs it.
func (l *limiter) greediest() *entry {
	var found *entry
	for at := l.entries.Front(); at != nil; at = at.Next() {
		if e := at.Value.(*entry); found == nil || e.from.count > found.from.count {
			found = e
		}
	}
	return found
}

// release removes e and leaves its connection alone. It returns false if e was
// evicted before; then the reason is e.why.
func (l *limiter) release(e *entry) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remove(e, none)
}

// evict removes e and closes its connection, unless e is not in the limiter any more.
func (l *limiter) evict(e *entry, why Reason) {
	l.mu.Lock()
	removed := l.remove(e, why)
	l.mu.Unlock()
	if removed {
		_ = e.conn.Close()
	}
}

// close evicts all connections, and lets no more in.
func (l *limiter) close(why Reason) {
	l.mu.Lock()
	l.closed = true
	var out []*entry
	for l.entries.Len() > 0 {
		e := l.entries.Front().Value.(*entry)
		l.remove(e, why)
		out = append(out, e)
	}
	l.mu.Unlock()
	for _, e := range out {
		_ = e.conn.Close()
	}
}

// remove removes e if it is still there: whoever removes it decides, once, what becomes
// of it. The caller holds mu.
func (l *limiter) remove(e *entry, why Reason) bool {
	if e.place == nil {
		return false
	}
	l.entries.Remove(e.place)
	e.place, e.why = nil, why
	e.from.count--
	if e.from.count == 0 {
		delete(l.sources, e.from.network)
	}
	return true
}

// size is the number of connections.
func (l *limiter) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries.Len()
}

// networkOf is the network that counts as one source. For IPv6 that is a /64, because
// whoever has one address of it has all of them.
func networkOf(remote net.Addr) netip.Prefix {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := tcp.AddrPort().Addr().Unmap()
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.WithZone("").Prefix(bits) // fails only for no address at all
	return network
}
