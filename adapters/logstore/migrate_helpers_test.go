package logstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/wal"
)

var (
	bolted   = logstore.Backend{Name: "bolt", Open: bolt.Open, Inspect: bolt.Inspect}
	badgered = logstore.Backend{Name: "badger", Open: badger.Open, Inspect: badger.Inspect}
	walled   = logstore.Backend{Name: "wal", Open: wal.Open, Inspect: wal.Inspect}
)

// eachPair runs a test for every way between two durable backends.
func eachPair(t *testing.T, test func(t *testing.T, from, to logstore.Backend)) {
	t.Helper()
	durable := []logstore.Backend{bolted, badgered, walled}
	for _, from := range durable {
		for _, to := range durable {
			if from.Name != to.Name {
				t.Run(from.Name+" to "+to.Name, func(t *testing.T) { test(t, from, to) })
			}
		}
	}
}

// largeEntry is more than badger keeps in one value. The race detector looks at every byte
// of every copy, so it is hardly more.
const largeEntry = 300_000

// wanted is the entry at an index: every field has something in it, now and then
// nothing, and a few entries are large.
func wanted(index uint64) *raft.Log {
	entry := &raft.Log{
		Index:      index,
		Term:       1 + index/100,
		Type:       raft.LogType(index % 6),
		Data:       bytes.Repeat(binary.BigEndian.AppendUint64(nil, index), int(index%40)),
		AppendedAt: time.Unix(1_700_000_000+int64(index), int64(index*7919%1e9)).UTC(),
	}
	switch {
	case index%500 == 0:
		entry.Data = bytes.Repeat([]byte{byte(index)}, largeEntry)
	case index%7 == 0:
		entry.Extensions = fmt.Appendf(nil, "extension %d", index)
	case index%11 == 0:
		entry.AppendedAt = time.Time{}
	}
	return entry
}

// contents describes the log and the stable state of a store.
type contents struct {
	ranges [][2]uint64 // of indexes
	stable bool        // there is a term and a vote
}

var full = contents{ranges: [][2]uint64{{37, 600}, {801, 1400}}, stable: true}

func (c contents) writeTo(t *testing.T, store logstore.Store) {
	t.Helper()
	for _, r := range c.ranges {
		var entries []*raft.Log
		for index := r[0]; index <= r[1]; index++ {
			entries = append(entries, wanted(index))
		}
		if err := store.StoreLogs(entries); err != nil {
			t.Fatal(err)
		}
	}
	if !c.stable {
		return
	}
	if err := errors.Join(
		store.SetUint64(logstore.TermKey, 40),
		store.SetUint64(logstore.VoteTermKey, 39),
		store.Set(logstore.VoteCandidateKey, []byte("10.0.0.1:8008")),
	); err != nil {
		t.Fatal(err)
	}
}

func (c contents) check(t *testing.T, store logstore.Store) {
	t.Helper()
	var want [2]uint64
	if len(c.ranges) > 0 {
		want = [2]uint64{c.ranges[0][0], c.ranges[len(c.ranges)-1][1]}
	}
	first, err := store.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	last, err := store.LastIndex()
	if got := [2]uint64{first, last}; err != nil || got != want {
		t.Fatalf("bounds of the log = %d and %d (%v), want %d", first, last, err, want)
	}
	for index := first; index != 0 && index <= last; index++ {
		var got raft.Log
		err := store.GetLog(index, &got)
		if !slices.ContainsFunc(c.ranges, func(r [2]uint64) bool { return index >= r[0] && index <= r[1] }) {
			if !errors.Is(err, raft.ErrLogNotFound) {
				t.Fatalf("entry %d in a gap: error = %v, want not found", index, err)
			}
			continue
		}
		want := wanted(index)
		if err != nil || got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !got.AppendedAt.Equal(want.AppendedAt) ||
			!bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) {
			t.Fatalf("entry %d = %+v (%v), want %+v", index, got, err, want)
		}
	}
	term, err := store.GetUint64(logstore.TermKey)
	if !c.stable {
		if !errors.Is(err, logstore.ErrKeyNotFound) {
			t.Errorf("term that was never set = %d, %v, want ErrKeyNotFound", term, err)
		}
		return
	}
	voteTerm, voteErr := store.GetUint64(logstore.VoteTermKey)
	vote, candidateErr := store.Get(logstore.VoteCandidateKey)
	if err := errors.Join(err, voteErr, candidateErr); err != nil || term != 40 || voteTerm != 39 || string(vote) != "10.0.0.1:8008" {
		t.Errorf("term %d, vote for %q in term %d (%v)", term, vote, voteTerm, err)
	}
}

// made gives the directory of an instance with these contents.
func made(t *testing.T, backend logstore.Backend, c contents) string {
	t.Helper()
	dir := t.TempDir()
	directory, err := logstore.Claim(dir, logstore.Owner{RaftID: "n1", Backend: backend.Name})
	if err != nil {
		t.Fatal(err)
	}
	store, err := backend.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.writeTo(t, store)
	if err := errors.Join(directory.SetClusterID("c"), store.Close(), directory.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "note"), "of the operator")
	return dir
}

// startable opens the store that the manifest names, as an instance does, and checks
// it.
func startable(t *testing.T, dir string, c contents) (backend string) {
	t.Helper()
	directory, err := logstore.ClaimExisting(dir)
	if err != nil {
		t.Fatal(err)
	}
	backend = directory.Backend()
	if directory.RaftID() != "n1" || directory.ClusterID() != "c" {
		t.Errorf("raft id = %q, cluster id = %q, want n1 and c", directory.RaftID(), directory.ClusterID())
	}
	open := map[string]logstore.Opener{"bolt": bolt.Open, "badger": badger.Open, "wal": wal.Open}[backend]
	store, err := open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.check(t, store)
	if err := errors.Join(store.Close(), directory.Close()); err != nil {
		t.Fatal(err)
	}
	return backend
}

func migrateDir(ctx context.Context, t *testing.T, dir string, m logstore.Migration) error {
	t.Helper()
	directory, err := logstore.ClaimExisting(dir)
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(directory.Migrate(ctx, m), directory.Close())
}

// wantOnly fails the test unless these are the names in dir.
func wantOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	want := append([]string{"instance.json", "instance.lock", "note"}, names...)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files in the directory = %q, want %q", got, want)
	}
}
