package badger_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
)

// badger maps the file of a table, so it sees damage to the file at once. It takes a damaged
// block for the end of the table, and what is in the block for missing.

// spoilt opens the store in dir and then damages the block of its table that holds text.
func spoilt(t *testing.T, dir, text string, open func() (logstore.Store, error)) logstore.Store {
	t.Helper()
	store, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	table := only(t, dir, "*.sst")
	raw, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, []byte(text))
	if at < 0 {
		t.Fatalf("%s does not hold %q", table, text)
	}
	file, err := os.OpenFile(table, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte{raw[at] ^ 0xff}, int64(at))
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return store
}

func wantVote(t *testing.T, store logstore.Store) {
	t.Helper()
	term, err := store.GetUint64(logstore.TermKey)
	voted, voteErr := store.Get(logstore.VoteCandidateKey)
	if err := errors.Join(err, voteErr); err != nil || term != 7 || string(voted) != candidate {
		t.Errorf("term and vote = %d, %q, %v, want 7, %q", term, voted, err, candidate)
	}
}

// An instance that does not find its vote could vote twice.
func TestStableValuesOutliveDamageToTheirTable(t *testing.T) {
	for name, opener := range map[string]logstore.Opener{"Open": badger.Open, "Inspect": badger.Inspect} {
		t.Run(name, func(t *testing.T) {
			dir := tabled(t)
			store := spoilt(t, dir, candidate, func() (logstore.Store, error) { return opener(dir, nil) })
			wantVote(t, store)
		})
	}
}

// What badger can't read is gone when it merges the table with others, so that the next start
// finds no damage.
func TestStableValuesOutliveTheMergeOfADamagedTable(t *testing.T) {
	dir := tabled(t)
	table := only(t, dir, "*.sst")
	var warnings lines
	store := spoilt(t, dir, candidate, func() (logstore.Store, error) {
		return badger.OpenEvery(dir, slog.New(slog.NewTextHandler(&warnings, nil)), 10*time.Millisecond)
	})
	for _, key := range [][]byte{logstore.TermKey, logstore.VoteCandidateKey} {
		await(t, "a message about "+string(key), func() bool { return strings.Contains(warnings.String(), "key="+string(key)) })
	}
	mergeAway(t, store, table)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = open(t, dir)
	wantVote(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// The tables can be merged, and the instance stopped, within one interval of housekeeping.
func TestStableValuesOutliveAMergeJustBeforeTheEnd(t *testing.T) {
	dir := tabled(t)
	table := only(t, dir, "*.sst")
	store := spoilt(t, dir, candidate, func() (logstore.Store, error) { return badger.OpenEvery(dir, nil, time.Hour) })
	mergeAway(t, store, table)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = open(t, dir)
	wantVote(t, store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// mergeAway writes and removes entries until badger has merged table with others.
func mergeAway(t *testing.T, store logstore.Store, table string) {
	t.Helper()
	index := uint64(201)
	await(t, "the table was merged", func() bool {
		fillAndRemove(t, store, index, index+499, 500)
		index += 500
		_, err := os.Stat(table)
		return errors.Is(err, fs.ErrNotExist)
	})
}

// Raft takes an entry that is not found for one that nobody needs any more.
func TestADamagedEntryIsNotMissing(t *testing.T) {
	dir := tabled(t)
	store := spoilt(t, dir, strings.Repeat("\x64", 300), func() (logstore.Store, error) { return badger.Open(dir, nil) })
	wantLost := func() {
		t.Helper()
		if err := store.GetLog(100, new(raft.Log)); !errors.Is(err, logstore.ErrDamaged) {
			t.Errorf("GetLog of a damaged entry = %v, want logstore.ErrDamaged", err)
		}
	}
	wantLost()
	var log raft.Log
	for _, index := range []uint64{1, 200} {
		if err := store.GetLog(index, &log); err != nil {
			t.Errorf("GetLog(%d) = %v, want success", index, err)
		}
	}
	// Up to an entry of the same block.
	if err := store.DeleteRange(1, 99); !errors.Is(err, logstore.ErrDamaged) {
		t.Errorf("DeleteRange up to a damaged entry = %v, want logstore.ErrDamaged", err)
	}
	wantLost()
	if err := store.GetLog(1, &log); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("GetLog of an entry that was removed = %v, want raft.ErrLogNotFound", err)
	}
	if first, err := store.FirstIndex(); err != nil || first <= 1 || first > 100 {
		t.Errorf("FirstIndex = %d, %v, want more than 1 and at most 100", first, err)
	}
	if err := store.DeleteRange(100, 200); !errors.Is(err, logstore.ErrDamaged) {
		t.Errorf("DeleteRange from a damaged entry = %v, want logstore.ErrDamaged", err)
	}
	wantLost()
	if err := store.GetLog(200, &log); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("GetLog of an entry that was removed = %v, want raft.ErrLogNotFound", err)
	}
	if last, err := store.LastIndex(); err != nil || last < 100 || last >= 200 {
		t.Errorf("LastIndex = %d, %v, want at least 100 and less than 200", last, err)
	}
	// It can be stored again.
	if err := store.StoreLog(&raft.Log{Index: 100, Term: 2}); err != nil {
		t.Fatal(err)
	}
	if err := store.GetLog(100, &log); err != nil || log.Term != 2 {
		t.Errorf("GetLog of an entry that was stored again = %+v, %v", log, err)
	}
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for: %s", what)
		}
	}
}

// lines is a buffer for a log. Safe for concurrent use.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(line)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
