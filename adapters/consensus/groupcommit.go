package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// enqueueTimeout is how long a write waits for a place in raft's queue, which is full only
// while the disk does not keep up. Then the write is refused: the API promises that
// within a second.
const enqueueTimeout = 800 * time.Millisecond

// maxPending is how many bytes of writes may be in flight. Raft bounds only the number of
// entries, but the largest is ten thousand times as long as the smallest, and each is
// kept in memory several times.
const maxPending = 64 << 20

// maxShared is how many bytes of writes go into one entry that several writes share. At this
// size the cost of the entry itself hardly counts, and it is still cached, although it may
// be a byte or two longer than its writes.
const maxShared = disk.MaxCachedEntry - 2

// groupPatience is how long writes wait at most for the group before them. It is longer than
// a commit takes among machines that are near each other, and short compared with one
// among machines that are far apart.
const groupPatience = 5 * time.Millisecond

// groupCommit hands writes to raft in groups. Writes that arrive while a group is in flight
// wait until it is committed, and then form the next group, as one entry if possible. So the
// more writes there are, the more of them share a sync, a message to each follower, and
// the wake-up of each goroutine involved; a lone write does not wait. If a group takes
// longer than groupPatience, the next one does not wait for it, and several are in flight.
// Safe for concurrent use.
type groupCommit struct {
	// apply is raft's Apply: it waits up to patience for a place in raft's queue.
	apply func(entry []byte, patience time.Duration) raft.ApplyFuture
	// mayShare says whether every instance can read an entry that several writes share.
	mayShare func() bool
	// answered is called once for each write that add took, from any goroutine.
	answered func()

	pending atomic.Int64 // bytes of writes in flight or waiting; incremented under mu

	mu      sync.Mutex
	waiting []*write
	going   bool // the latest group is in flight, and the next one waits for it
}

// write is an entry in flight. Its caller may give up before there is an answer, which
// raft's futures do not allow.
type write struct {
	entry []byte
	done  chan struct{} // closed once outcome and err are set

	outcome outcome
	err     error // one of ports
}

// add takes w, unless too much is in flight.
func (g *groupCommit) add(w *write) (taken bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	size := int64(len(w.entry))
	if g.pending.Load()+size > maxPending {
		return false
	}
	g.pending.Add(size)
	g.waiting = append(g.waiting, w)
	if !g.going {
		g.send()
	}
	return true
}

// next is called once for each group, when the next group need not wait for it any more.
func (g *groupCommit) next() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.send()
}

// send sends the waiting writes as one group. The caller holds the lock.
func (g *groupCommit) send() {
	group := g.waiting
	g.waiting = nil
	g.going = len(group) > 0
	if !g.going {
		return
	}
	go func() {
		var f flight
		overdue := time.AfterFunc(groupPatience, func() {
			f.scatter(g.settle)
			g.next()
		})
		g.commit(group, &f)
		if overdue.Stop() {
			g.next()
		}
	}()
}

// commit hands group to raft and waits for the answers one after the other, until f is
// scattered.
func (g *groupCommit) commit(group []*write, f *flight) {
	deadline := time.Now().Add(enqueueTimeout)
	mayShare := len(group) > 1 && g.mayShare()
	for first := true; len(group) > 0; first = false {
		size := 1
		if mayShare {
			size = sharing(group)
		}
		p := parcel(group[:size])
		group = group[size:]
		patience := time.Until(deadline)
		if !first && patience <= 0 {
			g.answer(p, ports.ErrBusy)
			continue
		}
		f.add(p, g.apply(p.entry(), max(patience, 1)), g.settle)
	}
	for p, future := f.first(); p != nil; p, future = f.first() {
		g.settle(p, future)
	}
}

// sharing returns how many of the first writes go into one entry. A write that is no command
// gets an entry of its own: code that searches the log for one looks at whole entries.
func sharing(group []*write) int {
	size := 0
	for n, w := range group {
		size += len(w.entry)
		if n > 0 && size > maxShared || !codec.IsCommand(w.entry) {
			return max(1, n)
		}
	}
	return len(group)
}

// parcel is one or more writes that share one entry.
type parcel []*write

func (p parcel) entry() []byte {
	if len(p) == 1 {
		return p[0].entry
	}
	entries := make([][]byte, len(p))
	for i, w := range p {
		entries[i] = w.entry
	}
	return codec.JoinEntries(entries)
}

// flight holds the parcels of a group that raft has and whose answers are not waited for yet.
// One goroutine waits for all of them in turn. If that takes long, the flight is scattered:
// each parcel gets a goroutine of its own, so that a refusal is passed on however long the
// parcels before it take. Safe for concurrent use.
type flight struct {
	mu        sync.Mutex
	parcels   []parcel
	futures   []raft.ApplyFuture
	scattered bool
}

func (f *flight) add(p parcel, future raft.ApplyFuture, settle func(parcel, raft.ApplyFuture)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.scattered {
		go settle(p, future)
		return
	}
	f.parcels, f.futures = append(f.parcels, p), append(f.futures, future)
}

// first removes the first parcel and returns it; nil if there is none.
func (f *flight) first() (parcel, raft.ApplyFuture) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.parcels) == 0 {
		return nil, nil
	}
	p, future := f.parcels[0], f.futures[0]
	f.parcels, f.futures = f.parcels[1:], f.futures[1:]
	return p, future
}

// scatter calls settle for each parcel in a goroutine of its own, also for those that are
// added later.
func (f *flight) scatter(settle func(parcel, raft.ApplyFuture)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scattered = true
	for i, p := range f.parcels {
		go settle(p, f.futures[i])
	}
	f.parcels, f.futures = nil, nil
}

// settle waits for raft's answer to p and passes it on to its writes.
func (g *groupCommit) settle(p parcel, future raft.ApplyFuture) {
	err := future.Error()
	if err == nil {
		p.take(future.Response())
	}
	g.answer(p, portError(err))
}

// take gives each write its part of the state machine's answer.
func (p parcel) take(answer any) {
	each, divided := answer.([]outcome)
	for i, w := range p {
		if divided {
			w.outcome = each[i]
		} else {
			w.outcome = answer.(outcome)
		}
	}
}

func (g *groupCommit) answer(p parcel, err error) {
	for _, w := range p {
		g.pending.Add(-int64(len(w.entry)))
		w.err = err
		close(w.done)
		g.answered()
	}
}
