package consensus

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// absentPause is the time between two looks whether an absent instance is still to be sent
// something.
const absentPause = 100 * time.Millisecond

// absent keeps raft from looking away from an instance that is. Raft 1.7.3 waits after
// each failure to send entries, or a snapshot, twice as long as before, up to ten seconds. It
// waits to the end although the instance answers its heartbeats again, which then follows nobody's
// log, and is not counted on. So raft learns of a failure when the instance answers again,
// and there is never more than one to wait for. Safe for concurrent use.
type absent struct {
	mu   sync.Mutex
	back map[raft.ServerID]chan struct{} // closed when it answers
}

func newAbsent() *absent { return &absent{back: map[raft.ServerID]chan struct{}{}} }

// answered is called when an instance has answered.
func (a *absent) answered(id raft.ServerID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if back, awaited := a.back[id]; awaited {
		close(back)
		delete(a.back, id)
	}
}

// await returns when id answers, when that is not wanted any more, or when stopped is
// closed.
func (a *absent) await(id raft.ServerID, wanted func() bool, stopped <-chan struct{}) {
	a.mu.Lock()
	back, awaited := a.back[id]
	if !awaited {
		back = make(chan struct{})
		a.back[id] = back
	}
	a.mu.Unlock()
	pause := time.NewTicker(absentPause)
	defer pause.Stop()
	for wanted() {
		select {
		case <-back:
			return
		case <-stopped:
			return
		case <-pause.C:
		}
	}
}
