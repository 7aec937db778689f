package consensus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// enqueueTimeout is how long a write waits for a place in raft's queue, which is
// full only while the disk does not keep up. Then it is refused, and that is promised
// within a second.
const enqueueTimeout = 800 * time.Millisecond

// maxPending is how many bytes of writes may be on their way at once. Raft bounds
// the number of entries; but the largest is ten thousand times as long as the
// smallest write, and each of them is kept several times over.
const maxPending = 64 << 20

// maxShared is how many bytes of writes go into one entry, if they are more than one. What
// an entry costs is nearly nothing beside them by then, and it is still cached, even where it
// is a byte or two longer than they are together.
const maxShared = longestCached - 2

// groupPatience is how long writes wait at most for those before them: longer than a
// commit takes among machines that are near each other, and not much beside one among
// those that are not.
const groupPatience = 5 * time.Millisecond

// groupCommit hands writes to raft in groups: what comes while one is on its way waits
// until that is committed, and then goes together, as one entry if it may. So the more
// writes there are, the more of them share a sync, a message to each follower, and the
// waking of each goroutine on the way; a lone one waits for nobody. A group that takes longer
// than groupPatience is waited for no more, and then several are on their way. Safe for
// concurrent use.
type groupCommit struct {
	// apply is raft's: it waits no longer than it is told to for a place in raft's queue.
	apply func(entry []byte, patience time.Duration) raft.ApplyFuture
	// mayShare says whether every instance can read an entry that several writes share.
	mayShare func() bool
	// answered is called once for each write that was taken, from any goroutine.
	answered func()

	pending atomic.Int64 // bytes of entries that are on their way; grows under mu

	mu      sync.Mutex
	waiting []*write
	going   bool // the latest group is on its way, and waited for
}

// write is an entry on its way. Who waits for it may leave before there is an answer:
// raft's futures know no context.
type write struct {
	entry []byte
	done  chan struct{} // closed when there is an answer, which is what follows

	outcome outcome
	err     error // as ports has it
}

// add takes w, unless too much is on its way.
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

// next is called once for each group, when that is waited for no more.
func (g *groupCommit) next() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.send()
}

// send needs the lock.
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

// commit hands group over, and waits for the answers, as long as they come in order and
// in time.
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

// sharing is how many of the first of these writes go into one entry. What is no command
// goes alone: who looks for it in a log looks at whole entries.
func sharing(group []*write) int {
	size := 0
	for n, w := range group {
		size += len(w.entry)
		if n > 0 && size > maxShared || !isCommand(w.entry) {
			return max(1, n)
		}
	}
	return len(group)
}

// parcel is writes, one or more, that go as one entry.
type parcel []*write

func (p parcel) entry() []byte {
	if len(p) == 1 {
		return p[0].entry
	}
	entries := make([][]byte, len(p))
	for i, w := range p {
		entries[i] = w.entry
	}
	return joined(entries)
}

// flight is the parcels of a group that raft has, and nobody waits for yet: one goroutine
// waits for all of them, one after the other, unless that takes long. Then each has its
// own, since one that is refused must be told so, whatever becomes of those before. Safe for
// concurrent use.
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

// first takes the first parcel out; nil: there is none.
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

// scatter has settle called for each by a goroutine of its own, also for those that are
// yet to come.
func (f *flight) scatter(settle func(parcel, raft.ApplyFuture)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scattered = true
	for i, p := range f.parcels {
		go settle(p, f.futures[i])
	}
	f.parcels, f.futures = nil, nil
}

// settle waits for what becomes of p.
func (g *groupCommit) settle(p parcel, future raft.ApplyFuture) {
	err := future.Error()
	if err == nil {
		p.take(future.Response())
	}
	g.answer(p, portError(err))
}

// take gives each write its part of what the machine answered.
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
