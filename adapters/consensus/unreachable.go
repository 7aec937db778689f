package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// returnCheckInterval is how often a sender that waits for an unreachable instance checks
// whether it still has to send to it.
const returnCheckInterval = 100 * time.Millisecond

// unreachablePeers delays the news of a failure to send until the instance answers again.
// Raft 1.7.3 waits after each failure to send entries or a snapshot, twice as long each
// time, up to ten seconds. It waits to the end even if the instance answers heartbeats
// again; until then the instance gets no entries and does not count towards a
// majority. So raft learns of a failure only when the instance answers, and never has
// more than one to wait for. Safe for concurrent use.
type unreachablePeers struct {
	mu   sync.Mutex
	back map[raft.ServerID]chan struct{} // closed when the instance answers
}

func newUnreachablePeers() *unreachablePeers {
	return &unreachablePeers{back: map[raft.ServerID]chan struct{}{}}
}

// answered is called when id has answered.
func (u *unreachablePeers) answered(id raft.ServerID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if back, awaited := u.back[id]; awaited {
		close(back)
		delete(u.back, id)
	}
}

// await returns when id answers, when wanted turns false, or when stopped is closed.
func (u *unreachablePeers) await(id raft.ServerID, wanted func() bool, stopped <-chan struct{}) {
	u.mu.Lock()
	back, awaited := u.back[id]
	if !awaited {
		back = make(chan struct{})
		u.back[id] = back
	}
	u.mu.Unlock()
	check := time.NewTicker(returnCheckInterval)
	defer check.Stop()
	for wanted() {
		select {
		case <-back:
			return
		case <-stopped:
			return
		case <-check.C:
		}
	}
}
