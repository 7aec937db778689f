package consensus

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/disk"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// queue stands for raft: it takes writes, and a test commits them.
type queue struct {
	room chan struct{} // takes a token per place in raft's queue; nil: there is always room

	mu      sync.Mutex
	entries []string
	futures []*testFuture
}

type testFuture struct {
	raft.ApplyFuture
	done   chan struct{}
	err    error
	answer any
}

func (p *testFuture) Error() error {
	<-p.done
	return p.err
}

func (p *testFuture) Response() any { return p.answer }

func (p *testFuture) complete(err error) {
	p.err = err
	close(p.done)
}

func (q *queue) apply(entry []byte, patience time.Duration) raft.ApplyFuture {
	p := &testFuture{done: make(chan struct{})}
	if q.room != nil {
		select {
		case q.room <- struct{}{}:
		case <-time.After(patience):
			p.complete(raft.ErrEnqueueTimeout)
			return p
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	p.answer = outcome{changes: []domain.Change{{Revision: domain.Revision(len(q.entries))}}}
	q.entries = append(q.entries, string(entry))
	q.futures = append(q.futures, p)
	return p
}

// mustHold fails the test unless raft has been given exactly these entries, in this order.
func (q *queue) mustHold(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Equal(q.entries, want) {
		t.Fatalf("entries given to raft = %q, want %q", q.entries, want)
	}
}

// commit lets the given entries, by their position, succeed.
func (q *queue) commit(numbers ...int) {
	for _, number := range numbers {
		q.futures[number].complete(nil)
	}
	synctest.Wait()
}

func newGroupCommit(q *queue) (g *groupCommit, answered *int) {
	var mu sync.Mutex
	answered = new(int)
	return &groupCommit{apply: q.apply, mayShare: func() bool { return false }, answered: func() {
		mu.Lock()
		defer mu.Unlock()
		*answered++
	}}, answered
}

func (g *groupCommit) put(t *testing.T, entries ...string) (writes []*write) {
	t.Helper()
	for _, entry := range entries {
		w := &write{entry: []byte(entry), done: make(chan struct{})}
		if !g.add(w) {
			t.Fatalf("write of %q was refused, want it added", entry)
		}
		writes = append(writes, w)
	}
	return writes
}

func (w *write) isAnswered() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// Writes that come while another is being committed wait for it, and then go to raft
// together. Each gets its own answer.
func TestWritesThatComeMeanwhileGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, answered := newGroupCommit(q)
		began := time.Now()
		first := g.put(t, "a")
		q.mustHold(t, "a") // a lone write goes at once
		more := g.put(t, "b", "c", "d")
		q.mustHold(t, "a")
		q.commit(0)
		q.mustHold(t, "a", "b", "c", "d")
		late := g.put(t, "e")
		q.commit(1, 2)
		q.mustHold(t, "a", "b", "c", "d") // one write of the group is not committed
		q.futures[3].complete(raft.ErrLeadershipLost)
		q.mustHold(t, "a", "b", "c", "d", "e")
		q.commit(4)
		for i, w := range slices.Concat(first, more, late) {
			switch {
			case !w.isAnswered():
				t.Errorf("%q is not answered", w.entry)
			case i == 3 && !errors.Is(w.err, ports.ErrOutcomeUnknown):
				t.Errorf("error of %q = %v, want %v", w.entry, w.err, ports.ErrOutcomeUnknown)
			case i != 3 && (w.err != nil || w.outcome.changes[0].Revision != domain.Revision(i)):
				t.Errorf("outcome of %q = %+v, %v, want revision %d", w.entry, w.outcome, w.err, i)
			}
		}
		if *answered != 5 || g.pending.Load() != 0 {
			t.Errorf("answered = %d, pending bytes = %d, want 5 and none", *answered, g.pending.Load())
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the writes waited %v, want no time", took)
		}
		g.put(t, "f") // no write is in flight, so this one goes at once
		q.mustHold(t, "a", "b", "c", "d", "e", "f")
		q.commit(5)
	})
}

// Where commits are slow, as between distant machines, a write waits for earlier ones only
// briefly.
func TestASlowCommitIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		second := g.put(t, "b", "c")
		time.Sleep(groupPatience - 1)
		q.mustHold(t, "a")
		time.Sleep(time.Nanosecond)
		q.mustHold(t, "a", "b", "c")
		g.put(t, "d")
		q.commit(0) // "d" waits for the group before it, not for the first write
		q.mustHold(t, "a", "b", "c")
		q.commit(1, 2)
		q.mustHold(t, "a", "b", "c", "d")
		if !second[0].isAnswered() || !second[1].isAnswered() {
			t.Error("a group that was sent beside an earlier write is not answered")
		}
		time.Sleep(time.Second)
		g.put(t, "e") // the write before is overdue
		q.mustHold(t, "a", "b", "c", "d", "e")
		q.commit(3, 4)
		time.Sleep(time.Second)
		g.put(t, "f")
		g.put(t, "g")
		q.mustHold(t, "a", "b", "c", "d", "e", "f") // no write is overdue any more, so "g" waits for "f"
		q.commit(5)
		q.commit(6)
	})
}

// Raft takes no write while its queue is full. Every write that finds no room is refused in
// time, also behind some that did find room.
func TestAWriteOverTheLimitIsRefusedInTime(t *testing.T) {
	t.Run("the last write is refused", func(t *testing.T) { mustRefuseAllButTwo(t, "b", "c", "d") })
	t.Run("several writes are refused", func(t *testing.T) { mustRefuseAllButTwo(t, "b", "c", "d", "e", "f") })
}

// mustRefuseAllButTwo writes entries, of which two find room in raft's queue.
func mustRefuseAllButTwo(t *testing.T, entries ...string) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{room: make(chan struct{}, 3)}
		g, answered := newGroupCommit(q)
		g.put(t, "a")
		q.mustHold(t, "a")
		writes := g.put(t, entries...)
		q.commit(0)
		q.mustHold(t, "a", "b", "c")
		time.Sleep(enqueueTimeout)
		synctest.Wait()
		for i, w := range writes {
			switch {
			case i < 2 && w.isAnswered():
				t.Errorf("%q, which raft has taken, is answered: %v", w.entry, w.err)
			case i >= 2 && (!w.isAnswered() || w.err != ports.ErrBusy):
				t.Errorf("%q, which raft has not taken, is answered = %t, %v, want %v", w.entry, w.isAnswered(), w.err, ports.ErrBusy)
			}
		}
		q.commit(1, 2)
		if all := 1 + len(entries); !writes[0].isAnswered() || !writes[1].isAnswered() || *answered != all || g.pending.Load() != 0 {
			t.Errorf("answered = %d of %d, pending bytes = %d, want all and none", *answered, all, g.pending.Load())
		}
	})
}

// A refusal by raft is answered although earlier writes are still in flight.
func TestARefusalWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		q.mustHold(t, "a")
		writes := g.put(t, "b", "c", "d")
		q.commit(0)
		q.mustHold(t, "a", "b", "c", "d")
		q.futures[2].complete(raft.ErrLeadershipTransferInProgress)
		time.Sleep(groupPatience)
		synctest.Wait()
		if c := writes[1]; !c.isAnswered() || !errors.Is(c.err, ports.ErrNotLeader) {
			t.Errorf("refused write: answered = %t, %v, want ErrNotLeader", c.isAnswered(), c.err)
		}
		if writes[0].isAnswered() || writes[2].isAnswered() {
			t.Error("a write in flight is answered")
		}
		q.commit(1, 3)
		if !writes[0].isAnswered() || !writes[2].isAnswered() {
			t.Error("a committed write is not answered")
		}
	})
}

// Writes that come to raft late are not waited for one after the other either, if the writes
// before are overdue.
func TestALateRefusalWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{room: make(chan struct{}, 2)}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		q.mustHold(t, "a")
		writes := g.put(t, "b", "c", "d")
		q.commit(0)
		q.mustHold(t, "a", "b")
		time.Sleep(2 * groupPatience)
		<-q.room
		<-q.room // makes room for the others
		q.mustHold(t, "a", "b", "c", "d")
		q.futures[3].complete(raft.ErrLeadershipTransferInProgress)
		synctest.Wait()
		if d := writes[2]; !d.isAnswered() || !errors.Is(d.err, ports.ErrNotLeader) {
			t.Errorf("refused write: answered = %t, want true, with ErrNotLeader", d.isAnswered())
		}
		if writes[0].isAnswered() || writes[1].isAnswered() {
			t.Error("a write in flight is answered")
		}
		q.commit(1, 2)
		if !writes[0].isAnswered() || !writes[1].isAnswered() {
			t.Error("a committed write is not answered")
		}
	})
}

// entryOf returns an entry with a command, padded to size bytes.
func entryOf(id string, size int) string {
	revive := domain.Revive{ID: id}
	revive.ID += strings.Repeat(".", size-len(codec.EncodeEntry(revive)))
	more := len(codec.EncodeEntry(revive)) - size // the encoded length may take more than a byte
	revive.ID = revive.ID[:len(revive.ID)-more]
	return string(codec.EncodeEntry(revive))
}

// Writes that go together share an entry if all instances can read shared entries. Each
// still gets its own answer.
func TestWritesThatGoTogetherShareAnEntry(t *testing.T) {
	a, b, c, d := entryOf("a", 20), entryOf("b", 30), entryOf("c", 40), entryOf("d", 50)
	bc := string(codec.JoinEntries([][]byte{[]byte(b), []byte(c)}))
	tests := map[string]struct {
		answer any
		err    error
		want   [2]outcome
		fails  error
	}{
		"committed": {
			answer: []outcome{{changes: []domain.Change{{Revision: 7}}}, {err: domain.ErrNoSuchNode}},
			want:   [2]outcome{{changes: []domain.Change{{Revision: 7}}}, {err: domain.ErrNoSuchNode}},
		},
		"committed, but not applied": {
			answer: outcome{err: ports.ErrOutcomeUnknown},
			want:   [2]outcome{{err: ports.ErrOutcomeUnknown}, {err: ports.ErrOutcomeUnknown}},
		},
		"outcome unknown": {err: raft.ErrLeadershipLost, fails: ports.ErrOutcomeUnknown},
		"refused":         {err: raft.ErrNotLeader, fails: ports.ErrNotLeader},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				g, answered := newGroupCommit(q)
				g.mayShare = func() bool { return true }
				g.put(t, a)
				q.mustHold(t, a)
				writes := g.put(t, b, c)
				q.commit(0)
				q.mustHold(t, a, bc)
				late := g.put(t, d)
				q.futures[1].answer = test.answer
				q.futures[1].complete(test.err)
				q.mustHold(t, a, bc, d)
				q.commit(2)
				for i, w := range writes {
					if !w.isAnswered() || !errors.Is(w.err, test.fails) || !reflect.DeepEqual(w.outcome, test.want[i]) {
						t.Errorf("write %d: answered = %t, outcome = %+v, %v, want the one of its command", i, w.isAnswered(), w.outcome, w.err)
					}
				}
				if !late[0].isAnswered() || *answered != 4 || g.pending.Load() != 0 {
					t.Errorf("answered = %d, pending bytes = %d, want 4 and none", *answered, g.pending.Load())
				}
			})
		})
	}
}

func TestWhichWritesShareAnEntry(t *testing.T) {
	const small, rest = maxShared / 4, maxShared - 2*(maxShared/4)
	opening := string(codec.EncodeEntry(codec.Opening{ClusterID: "x"}))
	tests := map[string]struct {
		entries []string
		want    []int // the number of writes in each entry
	}{
		"writes that just fit":                            {[]string{entryOf("b", small), entryOf("c", small), entryOf("d", rest)}, []int{3}},
		"two writes whose joint entry has longer lengths": {[]string{entryOf("b", maxShared/2+10), entryOf("c", maxShared/2-10)}, []int{2}},
		"writes of a byte too many":                       {[]string{entryOf("b", small), entryOf("c", small), entryOf("d", rest+1)}, []int{2, 1}},
		"a too large write first":                         {[]string{entryOf("b", 5*small), entryOf("c", small), entryOf("d", small)}, []int{1, 2}},
		"a too large write between two":                   {[]string{entryOf("b", small), entryOf("c", 5*small), entryOf("d", small)}, []int{1, 1, 1}},
		"an entry without a command first":                {[]string{opening, entryOf("b", small), entryOf("c", small)}, []int{1, 2}},
		"an entry without a command in between":           {[]string{entryOf("b", 20), entryOf("c", 20), opening, entryOf("d", 20)}, []int{2, 1, 1}},
		"only entries without a command":                  {[]string{opening, opening}, []int{1, 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				g, _ := newGroupCommit(q)
				g.mayShare = func() bool { return true }
				want := []string{entryOf("a", 20)}
				g.put(t, want...)
				q.mustHold(t, want...)
				g.put(t, test.entries...)
				rest := test.entries
				for _, size := range test.want {
					if size == 1 {
						want = append(want, rest[0])
					} else {
						var entries [][]byte
						for _, entry := range rest[:size] {
							entries = append(entries, []byte(entry))
						}
						one := codec.JoinEntries(entries)
						if len(one) > disk.MaxCachedEntry {
							t.Errorf("entry has %d bytes, want few enough for the cache", len(one))
						}
						want = append(want, string(one))
					}
					rest = rest[size:]
				}
				q.commit(0)
				q.mustHold(t, want...)
				for i, size := range test.want {
					if size > 1 {
						q.futures[1+i].answer = make([]outcome, size)
					}
					q.commit(1 + i)
				}
			})
		})
	}
}

// A lone write is no shared entry, so the other instances' format does not matter.
func TestALoneWriteDoesNotAskWhetherItMayShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.mayShare = func() bool { t.Error("a lone write asked whether it may share an entry"); return true }
		g.put(t, "a")
		q.mustHold(t, "a")
		g.put(t, "b")
		q.commit(0)
		q.mustHold(t, "a", "b")
		q.commit(1)
	})
}

func TestAWriteOverTheLimitOfPendingBytesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		g.pending.Add(maxPending - 3)
		g.put(t, "bc")
		if g.add(&write{entry: []byte("d"), done: make(chan struct{})}) {
			t.Error("a write over maxPending was added, want it refused")
		}
		if pending := g.pending.Load(); pending != maxPending {
			t.Errorf("pending bytes = %d, want %d", pending, maxPending)
		}
		q.mustHold(t, "a")
		q.commit(0)
		q.mustHold(t, "a", "bc")
		q.commit(1)
	})
}
