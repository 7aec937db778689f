package demux

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// crowd is a bounded set of connections in the order of their arrival. When it
// is full, a newcomer takes the place of the oldest member of the source that
// has the most members. A crowd owns no goroutine; it is safe for concurrent use.
type crowd struct {
	max int

	mu        sync.Mutex
	members   *list.List // of *member, oldest first
	sources   map[netip.Prefix]*source
	dispersed bool
}

// source is where members come from, and how many of them there are.
type source struct {
	network netip.Prefix
	members int
}

// member is one connection in a crowd.
type member struct {
	conn *net.TCPConn
	why  Reason // why it was thrown out; read it only after leave said false

	from  *source
	place *list.Element // nil when it is not in the crowd any more
}

func newCrowd(max int) *crowd {
	return &crowd{max: max, members: list.New(), sources: make(map[netip.Prefix]*source)}
}

// join adds conn, throwing out another with reason Overload if there is no room.
// It says false, and does nothing, after disperse.
func (c *crowd) join(conn *net.TCPConn) (*member, bool) {
	newcomer, victim := c.add(conn, networkOf(conn.RemoteAddr()))
	if victim != nil {
		_ = victim.conn.Close()
	}
	return newcomer, newcomer != nil
}

// add is join, but leaves it to the caller to close the victim's connection.
func (c *crowd) add(conn *net.TCPConn, network netip.Prefix) (newcomer, victim *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dispersed {
		return nil, nil
	}
	if c.members.Len() >= c.max {
		victim = c.greediest()
		c.remove(victim, Overload)
	}
	from := c.sources[network]
	if from == nil {
		from = &source{network: network}
		c.sources[network] = from
	}
	from.members++
	newcomer = &member{conn: conn, from: from}
	newcomer.place = c.members.PushBack(newcomer)
	return newcomer, victim
}

// greediest is the oldest member of the source with the most members. A walk
// over the few hundred members is cheaper than the accept that asks for it.
func (c *crowd) greediest() *member {
	var found *member
	for at := c.members.Front(); at != nil; at = at.Next() {
		if m := at.Value.(*member); found == nil || m.from.members > found.from.members {
			found = m
		}
	}
	return found
}

// leave takes m out, untouched. It says false if m was thrown out before; then
// the reason is m.why.
func (c *crowd) leave(m *member) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remove(m, none)
}

// throwOut closes m's connection, unless m is not in the crowd any more.
func (c *crowd) throwOut(m *member, why Reason) {
	c.mu.Lock()
	removed := c.remove(m, why)
	c.mu.Unlock()
	if removed {
		_ = m.conn.Close()
	}
}

// disperse throws out everybody and lets nobody in any more.
func (c *crowd) disperse(why Reason) {
	c.mu.Lock()
	c.dispersed = true
	var out []*member
	for c.members.Len() > 0 {
		m := c.members.Front().Value.(*member)
		c.remove(m, why)
		out = append(out, m)
	}
	c.mu.Unlock()
	for _, m := range out {
		_ = m.conn.Close()
	}
}

// remove is where a member's fate is decided, once: mu is held.
func (c *crowd) remove(m *member, why Reason) bool {
	if m.place == nil {
		return false
	}
	c.members.Remove(m.place)
	m.place, m.why = nil, why
	m.from.members--
	if m.from.members == 0 {
		delete(c.sources, m.from.network)
	}
	return true
}

// size is the number of members.
func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members.Len()
}

// networkOf is what counts as one source: of IPv6 a /64, since whoever has one
// address of it has all of them.
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
