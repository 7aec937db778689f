package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/memory"
)

var errDisk = errors.New("the simulated disk fails")

// lie is a way in which a disk breaks its promises, which the checks have to find.
type lie int

const (
	honest lie = iota
	losesEntries
	losesVotes
	swapsEntries
)

// disk is where an instance keeps its log across all its lives. Every write takes a
// while. A crash during a write leaves a prefix of the write, or nothing. disk is
// safe for concurrent use.
type disk struct {
	random *rand.Rand // used by the holder of writing, or of mu
	lie    lie

	mu    sync.Mutex
	store logstore.Store // what is durable
	behaviour
	changed chan struct{} // closed, and replaced, when the behaviour changes
	writes  int           // the number of writes until armed is called
	votes   bool          // only writes of votes count
	armed   func()
}

// behaviour says how a disk behaves.
type behaviour struct {
	hung, failing, full bool
	slow                time.Duration
}

func newDisk(random *rand.Rand, l lie) *disk {
	return &disk{random: random, lie: l, changed: make(chan struct{}), store: emptyStore()}
}

func emptyStore() logstore.Store {
	store, err := memory.Open("", nil)
	if err != nil {
		panic(err) // it never fails
	}
	return store
}

// behave sets the behaviour from now on.
func (d *disk) behave(b behaviour) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behaviour = b
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *disk) isFailing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failing
}

// arm has crash called at the end of the given number of writes from now, counting
// only writes of votes if votes is set. crash must not block.
func (d *disk) arm(writes int, votes bool, crash func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes, d.votes, d.armed = writes, votes, crash
}

// candidate returns the address of the instance that this one voted for, or "" if the vote
// is lost.
func (d *disk) candidate() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	address, err := d.store.Get(logstore.VoteCandidateKey)
	if !errors.Is(err, logstore.ErrKeyNotFound) {
		must(err)
	}
	if _, of, named := bytes.Cut(address, []byte("@")); named {
		address = of
	}
	return string(address)
}

// open begins a life of the instance on the disk.
func (d *disk) open() *life {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &life{Store: d.store, disk: d, writing: make(chan struct{}, 1)}
	l.running, l.end = context.WithCancel(context.Background())
	return l
}

// wipe erases the disk. No process may have it open.
func (d *disk) wipe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store = emptyStore()
}

// life is the store as one process has it open. Writes after the process's crash
// are visible only to that process.
type life struct {
	logstore.Store
	disk    *disk
	writing chan struct{} // holds a token during a write
	running context.Context
	end     context.CancelFunc

	inFlight []*raft.Log // disk.mu guards it
	last     []*raft.Log // of the latest acknowledged append
}

// crash ends the life. The next life finds what is durable now.
func (l *life) crash() {
	d := l.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.running.Err() != nil {
		return
	}
	l.end()
	d.armed = nil
	d.store = durable(l.Store)
	if torn := len(l.inFlight); torn > 0 {
		must(d.store.StoreLogs(l.inFlight[:d.random.IntN(torn+1)]))
	}
	switch d.lie {
	case losesEntries:
		if len(l.last) > 0 {
			must(d.store.DeleteRange(l.last[0].Index, longestLog))
		}
	case losesVotes:
		must(d.store.SetUint64(logstore.VoteTermKey, 0))
		must(d.store.Set(logstore.VoteCandidateKey, nil))
	}
}

const longestLog = 1 << 40

// durable returns a copy of the durable part of a store.
func durable(store logstore.Store) logstore.Store {
	image := emptyStore()
	first, err := store.FirstIndex()
	must(err)
	last, err := store.LastIndex()
	must(err)
	for index := first; first > 0 && index <= last; index++ {
		var entry raft.Log
		if err := store.GetLog(index, &entry); !errors.Is(err, raft.ErrLogNotFound) {
			must(err)
			must(image.StoreLog(&entry))
		}
	}
	for _, key := range [][]byte{logstore.TermKey, logstore.VoteTermKey, logstore.VoteCandidateKey} {
		if value, err := store.Get(key); !errors.Is(err, logstore.ErrKeyNotFound) {
			must(err)
			must(image.Set(key, value))
		}
	}
	return image
}

// must panics on errors that can't happen.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("simulation: %v", err))
	}
}

// write performs one write at a time, and calls armed when it is due.
func (l *life) write(vote bool, do func() error) error {
	l.writing <- struct{}{}
	defer func() { <-l.writing }()
	err := do()
	d := l.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed != nil && l.running.Err() == nil && (vote || !d.votes) {
		if d.writes--; d.writes <= 0 {
			d.armed()
			d.armed = nil
		}
	}
	return err
}

// take waits as long as a write takes, and reports whether the disk fails.
func (l *life) take() (fails bool) {
	d := l.disk
	d.mu.Lock()
	left := time.Duration(20_000+d.random.IntN(200_000)) * time.Nanosecond
	if d.slow > 0 {
		left += time.Duration(d.random.Int64N(int64(d.slow)))
	}
	until := time.Now().Add(left)
	d.mu.Unlock()
	for {
		d.mu.Lock()
		hung, failing, changed := d.hung, d.failing, d.changed
		d.mu.Unlock()
		left := time.Until(until)
		if l.running.Err() != nil || !hung && left <= 0 {
			return failing && l.running.Err() == nil
		}
		if hung {
			left = longest
		}
		_ = waitFor(l.running, left, changed) // the next turn of the loop notices the end
	}
}

// StoreLog implements raft.LogStore.
func (l *life) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore.
func (l *life) StoreLogs(logs []*raft.Log) error {
	return l.write(false, func() error {
		l.note(logs, l.last)
		if l.disk.lie == swapsEntries {
			swap(logs)
		}
		if l.take() {
			stored := logs[:l.disk.random.IntN(len(logs)+1)]
			must(l.Store.StoreLogs(stored))
			l.note(nil, l.last)
			return errDisk
		}
		err := l.Store.StoreLogs(logs)
		l.note(nil, logs)
		return err
	})
}

func (l *life) note(inFlight, last []*raft.Log) {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	l.inFlight, l.last = inFlight, last
}

// swap replaces every tenth entry from another instance by a no-op. An entry of the
// instance's own is not older than this call.
func swap(logs []*raft.Log) {
	for _, log := range logs {
		if log.Type == raft.LogCommand && log.Index%10 == 0 && time.Since(log.AppendedAt) > 0 {
			log.Type = raft.LogNoop
		}
	}
}

// DeleteRange implements raft.LogStore.
func (l *life) DeleteRange(least, most uint64) error {
	return l.write(false, func() error {
		if l.take() {
			return errDisk
		}
		return l.Store.DeleteRange(least, most)
	})
}

// Set implements raft.StableStore.
func (l *life) Set(key, value []byte) error {
	// The placeholder before a vote contains no address.
	votes := bytes.Equal(key, logstore.VoteCandidateKey) && bytes.Contains(value, []byte(":"))
	return l.write(votes, func() error {
		if l.take() {
			return errDisk
		}
		return l.Store.Set(key, value)
	})
}

// SetUint64 implements raft.StableStore.
func (l *life) SetUint64(key []byte, value uint64) error {
	return l.write(false, func() error {
		if l.take() {
			return errDisk
		}
		return l.Store.SetUint64(key, value)
	})
}

// Close implements io.Closer. What the process wrote before stays.
func (l *life) Close() error {
	l.crash()
	return nil
}

// Room implements logstore.Roomy.
func (l *life) Room() error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	if l.disk.full && l.running.Err() == nil {
		return &logstore.NoRoomError{Directory: "the simulated disk"}
	}
	return nil
}
