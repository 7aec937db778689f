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
// their number; but the largest batch is ten thousand times as long as the
// smallest write, and each of them is kept several times over.
const maxPending = 64 << 20

// groupPatience is how long writes wait at most for those before them: longer than a
// commit takes among machines that are near each other, and not much beside one among
// those that are not.
const groupPatience = 5 * time.Millisecond

// groupCommit hands writes to raft in groups: what comes while one is on its way waits
// until that is committed, and then goes together. So the more writes there are, the more
// of them share a sync, a message to each follower, and the waking of each goroutine on
// the way; a lone one waits for nobody. A group that takes longer than groupPatience is
// waited for no more, and then several are on their way. Safe for concurrent use.
type groupCommit struct {
	// apply is raft's: it waits no longer than it is told to for a place in raft's queue.
	apply func(entry []byte, patience time.Duration) raft.ApplyFuture
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
		overdue := time.AfterFunc(groupPatience, g.next)
		g.commit(group)
		if overdue.Stop() {
			g.next()
		}
	}()
}

// commit returns when all of group are answered, or as good as.
func (g *groupCommit) commit(group []*write) {
	deadline := time.Now().Add(enqueueTimeout)
	futures := make([]raft.ApplyFuture, 0, len(group))
	for _, w := range group {
		patience := time.Until(deadline)
		if patience <= 0 {
			break
		}
		futures = append(futures, g.apply(w.entry, patience))
	}
	queued := len(futures)
	for _, w := range group[queued:] {
		g.answer(w, ports.ErrBusy)
	}
	if queued < len(group) {
		// The last one may have found no place either, and those before it say nothing
		// about that.
		queued--
		go g.settle(group[queued], futures[queued])
	}
	for i, w := range group[:queued] {
		g.settle(w, futures[i])
	}
}

// settle waits for what becomes of w.
func (g *groupCommit) settle(w *write, future raft.ApplyFuture) {
	err := future.Error()
	if err == nil {
		w.outcome = future.Response().(outcome)
	}
	g.answer(w, portError(err))
}

func (g *groupCommit) answer(w *write, err error) {
	g.pending.Add(-int64(len(w.entry)))
	w.err = err
	close(w.done)
	g.answered()
}
