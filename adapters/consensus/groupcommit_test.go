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

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// queue is raft's, as far as writes go: a test commits what is in it.
type queue struct {
	room chan struct{} // takes a token for each place; nil: there is always one

	mu      sync.Mutex
	entries []string
	futures []*promise
}

type promise struct {
	raft.ApplyFuture
	done   chan struct{}
	err    error
	answer any
}

func (p *promise) Error() error {
	<-p.done
	return p.err
}

func (p *promise) Response() any { return p.answer }

func (p *promise) keep(err error) {
	p.err = err
	close(p.done)
}

func (q *queue) apply(entry []byte, patience time.Duration) raft.ApplyFuture {
	p := &promise{done: make(chan struct{})}
	if q.room != nil {
		select {
		case q.room <- struct{}{}:
		case <-time.After(patience):
			p.keep(raft.ErrEnqueueTimeout)
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

// holds demands that these entries have come to raft, in this order.
func (q *queue) holds(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Equal(q.entries, want) {
		t.Fatalf("raft has %q, not %q", q.entries, want)
	}
}

// commit lets these succeed, which have come to raft.
func (q *queue) commit(numbers ...int) {
	for _, number := range numbers {
		q.futures[number].keep(nil)
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
			t.Fatalf("%q is refused", entry)
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

// Those who come while a write is on its way wait until it is committed, and then go
// together; each gets its own answer.
func TestWritesThatComeMeanwhileGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, answered := newGroupCommit(q)
		began := time.Now()
		first := g.put(t, "a")
		q.holds(t, "a") // at once
		more := g.put(t, "b", "c", "d")
		q.holds(t, "a")
		q.commit(0)
		q.holds(t, "a", "b", "c", "d")
		late := g.put(t, "e")
		q.commit(1, 2)
		q.holds(t, "a", "b", "c", "d") // one of the group is not committed
		q.futures[3].keep(raft.ErrLeadershipLost)
		q.holds(t, "a", "b", "c", "d", "e")
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
			t.Errorf("somebody waited %v for nothing", took)
		}
		g.put(t, "f") // nobody is on the way: at once
		q.holds(t, "a", "b", "c", "d", "e", "f")
		q.commit(5)
	})
}

// Where a commit takes long, as among machines far from each other, nobody waits for
// it for long.
func TestASlowCommitIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		second := g.put(t, "b", "c")
		time.Sleep(groupPatience - 1)
		q.holds(t, "a")
		time.Sleep(time.Nanosecond)
		q.holds(t, "a", "b", "c")
		g.put(t, "d")
		q.commit(0) // and "d" waits for those before it, not for the first
		q.holds(t, "a", "b", "c")
		q.commit(1, 2)
		q.holds(t, "a", "b", "c", "d")
		if !second[0].isAnswered() || !second[1].isAnswered() {
			t.Error("a group that went beside another one is not answered")
		}
		time.Sleep(time.Second)
		g.put(t, "e") // the one before is overdue
		q.holds(t, "a", "b", "c", "d", "e")
		q.commit(3, 4)
		time.Sleep(time.Second)
		g.put(t, "f")
		g.put(t, "g")
		q.holds(t, "a", "b", "c", "d", "e", "f") // and that is forgotten when it is over
		q.commit(5)
		q.commit(6)
	})
}

// Raft takes nothing while its queue is full. All who find no place are told so in
// time, also behind some that did.
func TestAWriteOverTheLimitIsRefusedInTime(t *testing.T) {
	t.Run("the last one", func(t *testing.T) { findNoPlace(t, "b", "c", "d") })
	t.Run("and others behind it", func(t *testing.T) { findNoPlace(t, "b", "c", "d", "e", "f") })
}

// findNoPlace is for entries of which two find a place.
func findNoPlace(t *testing.T, entries ...string) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{room: make(chan struct{}, 3)}
		g, answered := newGroupCommit(q)
		g.put(t, "a")
		q.holds(t, "a")
		writes := g.put(t, entries...)
		q.commit(0)
		q.holds(t, "a", "b", "c")
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

// What raft refuses is told although those before it are on their way.
func TestARefusalWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		q.holds(t, "a")
		writes := g.put(t, "b", "c", "d")
		q.commit(0)
		q.holds(t, "a", "b", "c", "d")
		q.futures[2].keep(raft.ErrLeadershipTransferInProgress)
		time.Sleep(groupPatience)
		synctest.Wait()
		if c := writes[1]; !c.isAnswered() || !errors.Is(c.err, ports.ErrNotLeader) {
			t.Errorf("answered: %t, %v", c.isAnswered(), c.err)
		}
		if writes[0].isAnswered() || writes[2].isAnswered() {
			t.Error("a write in flight is answered")
		}
		q.commit(1, 3)
		if !writes[0].isAnswered() || !writes[2].isAnswered() {
			t.Error("not all are answered")
		}
	})
}

// Nor is what comes to raft late waited for one after the other, where those before are
// overdue.
func TestALateRefusalWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{room: make(chan struct{}, 2)}
		g, _ := newGroupCommit(q)
		g.put(t, "a")
		q.holds(t, "a")
		writes := g.put(t, "b", "c", "d")
		q.commit(0)
		q.holds(t, "a", "b")
		time.Sleep(2 * groupPatience)
		<-q.room
		<-q.room // now there is a place for the others
		q.holds(t, "a", "b", "c", "d")
		q.futures[3].keep(raft.ErrLeadershipTransferInProgress)
		synctest.Wait()
		if d := writes[2]; !d.isAnswered() || !errors.Is(d.err, ports.ErrNotLeader) {
			t.Errorf("answered: %t", d.isAnswered())
		}
		if writes[0].isAnswered() || writes[1].isAnswered() {
			t.Error("a write in flight is answered")
		}
		q.commit(1, 2)
		if !writes[0].isAnswered() || !writes[1].isAnswered() {
			t.Error("not all are answered")
		}
	})
}

// entryOf gives an entry with a command, padded to size bytes.
func entryOf(id string, size int) string {
	revive := domain.Revive{ID: id}
	revive.ID += strings.Repeat(".", size-len(encodeEntry(revive)))
	more := len(encodeEntry(revive)) - size // since its length takes more than a byte
	revive.ID = revive.ID[:len(revive.ID)-more]
	return string(encodeEntry(revive))
}

// Those who go together share an entry where everybody can read that, and each still gets
// its own answer.
func TestWritesThatGoTogetherShareAnEntry(t *testing.T) {
	a, b, c, d := entryOf("a", 20), entryOf("b", 30), entryOf("c", 40), entryOf("d", 50)
	bc := string(joinEntries([][]byte{[]byte(b), []byte(c)}))
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
		"committed, and not applied": {
			answer: outcome{err: ports.ErrOutcomeUnknown},
			want:   [2]outcome{{err: ports.ErrOutcomeUnknown}, {err: ports.ErrOutcomeUnknown}},
		},
		"lost":    {err: raft.ErrLeadershipLost, fails: ports.ErrOutcomeUnknown},
		"refused": {err: raft.ErrNotLeader, fails: ports.ErrNotLeader},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				g, answered := newGroupCommit(q)
				g.mayShare = func() bool { return true }
				g.put(t, a)
				q.holds(t, a)
				writes := g.put(t, b, c)
				q.commit(0)
				q.holds(t, a, bc)
				late := g.put(t, d)
				q.futures[1].answer = test.answer
				q.futures[1].keep(test.err)
				q.holds(t, a, bc, d)
				q.commit(2)
				for i, w := range writes {
					if !w.isAnswered() || !errors.Is(w.err, test.fails) || !reflect.DeepEqual(w.outcome, test.want[i]) {
						t.Errorf("write %d: answered %t, %+v, %v", i, w.isAnswered(), w.outcome, w.err)
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
	opening := string(encodeEntry(opening{ClusterID: "x"}))
	tests := map[string]struct {
		entries []string
		want    []int // how many share each entry
	}{
		"as many as fit":                     {[]string{entryOf("b", small), entryOf("c", small), entryOf("d", rest)}, []int{3}},
		"two that become longer":             {[]string{entryOf("b", maxShared/2+10), entryOf("c", maxShared/2-10)}, []int{2}},
		"one byte more":                      {[]string{entryOf("b", small), entryOf("c", small), entryOf("d", rest+1)}, []int{2, 1}},
		"one that is too large, in front":    {[]string{entryOf("b", 5*small), entryOf("c", small), entryOf("d", small)}, []int{1, 2}},
		"one that is too large, between two": {[]string{entryOf("b", small), entryOf("c", 5*small), entryOf("d", small)}, []int{1, 1, 1}},
		"what is no command, in front":       {[]string{opening, entryOf("b", small), entryOf("c", small)}, []int{1, 2}},
		"what is no command, between":        {[]string{entryOf("b", 20), entryOf("c", 20), opening, entryOf("d", 20)}, []int{2, 1, 1}},
		"several that are none":              {[]string{opening, opening}, []int{1, 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := &queue{}
				g, _ := newGroupCommit(q)
				g.mayShare = func() bool { return true }
				want := []string{entryOf("a", 20)}
				g.put(t, want...)
				q.holds(t, want...)
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
						one := joinEntries(entries)
						if len(one) > maxCachedEntry {
							t.Errorf("an entry of %d bytes, which is not cached", len(one))
						}
						want = append(want, string(one))
					}
					rest = rest[size:]
				}
				q.commit(0)
				q.holds(t, want...)
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

// A write that goes alone is as it always was, whoever reads it.
func TestALoneWriteDoesNotAskWhetherItMayShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g, _ := newGroupCommit(q)
		g.mayShare = func() bool { t.Error("it asked"); return true }
		g.put(t, "a")
		q.holds(t, "a")
		g.put(t, "b")
		q.commit(0)
		q.holds(t, "a", "b")
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
			t.Error("a byte more than fits is taken")
		}
		if pending := g.pending.Load(); pending != maxPending {
			t.Errorf("pending bytes = %d, want %d", pending, maxPending)
		}
		q.holds(t, "a")
		q.commit(0)
		q.holds(t, "a", "bc")
		q.commit(1)
	})
}
