package logstoretest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// entry returns the entry for an index. Index and size determine all of it, so another
// process can check it.
func entry(index uint64, size int) *raft.Log {
	data := make([]byte, size)
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], index)
	// ChaCha8.Read never fails.
	_, _ = rand.NewChaCha8(seed).Read(data)
	log := &raft.Log{
		Index:      index,
		Term:       1 + index/7,
		Type:       raft.LogType(index % 6),
		Data:       data,
		AppendedAt: time.Unix(1_700_000_000+int64(index), int64(index%1e9)).UTC(),
	}
	if index%3 == 0 {
		log.Extensions = binary.BigEndian.AppendUint64([]byte("extension"), index)
	}
	return log
}

func entries(from, to uint64, size int) []*raft.Log {
	logs := make([]*raft.Log, 0, to-from+1)
	for index := from; index <= to; index++ {
		logs = append(logs, entry(index, size))
	}
	return logs
}

// differs says how got differs from want, or returns "" if it does not.
func differs(got, want *raft.Log) string {
	switch {
	case got.Index != want.Index:
		return fmt.Sprintf("Index is %d, want %d", got.Index, want.Index)
	case got.Term != want.Term:
		return fmt.Sprintf("Term is %d, want %d", got.Term, want.Term)
	case got.Type != want.Type:
		return fmt.Sprintf("Type is %v, want %v", got.Type, want.Type)
	case !bytes.Equal(got.Data, want.Data):
		return fmt.Sprintf("Data has %d bytes that differ from the %d stored", len(got.Data), len(want.Data))
	case !bytes.Equal(got.Extensions, want.Extensions):
		return fmt.Sprintf("Extensions are %q, want %q", got.Extensions, want.Extensions)
	case !got.AppendedAt.Equal(want.AppendedAt):
		return fmt.Sprintf("AppendedAt is %v, want %v", got.AppendedAt, want.AppendedAt)
	}
	return ""
}

func mustStore(t testing.TB, store logstore.Store, logs ...*raft.Log) {
	t.Helper()
	if err := store.StoreLogs(logs); err != nil {
		t.Fatalf("StoreLogs: %v", err)
	}
}

func mustDelete(t testing.TB, store logstore.Store, from, to uint64) {
	t.Helper()
	if err := store.DeleteRange(from, to); err != nil {
		t.Fatalf("DeleteRange(%d, %d): %v", from, to, err)
	}
}

func bounds(t testing.TB, store logstore.Store) (first, last uint64) {
	t.Helper()
	first, err := store.FirstIndex()
	if err != nil {
		t.Fatalf("FirstIndex: %v", err)
	}
	last, err = store.LastIndex()
	if err != nil {
		t.Fatalf("LastIndex: %v", err)
	}
	return first, last
}

func wantBounds(t testing.TB, store logstore.Store, first, last uint64) {
	t.Helper()
	if gotFirst, gotLast := bounds(t, store); gotFirst != first || gotLast != last {
		t.Fatalf("bounds = %d and %d, want %d and %d", gotFirst, gotLast, first, last)
	}
}

func wantEntry(t testing.TB, store logstore.Store, want *raft.Log) {
	t.Helper()
	// GetLog must overwrite everything that the log held before.
	got := raft.Log{Index: 9, Term: 9, Type: 9, Data: []byte("old"), Extensions: []byte("old"), AppendedAt: time.Now()}
	if err := store.GetLog(want.Index, &got); err != nil {
		t.Fatalf("GetLog(%d): %v", want.Index, err)
	}
	if how := differs(&got, want); how != "" {
		t.Fatalf("GetLog(%d): %s", want.Index, how)
	}
}

func wantNoEntry(t testing.TB, store logstore.Store, index uint64) {
	t.Helper()
	got := raft.Log{Index: 9, Data: []byte("old")}
	// Compare as raft does, with ==.
	if err := store.GetLog(index, &got); err != raft.ErrLogNotFound { //nolint:errorlint // raft compares with ==
		t.Fatalf("GetLog(%d) = %v, want raft.ErrLogNotFound itself", index, err)
	}
	if got.Index != 9 || string(got.Data) != "old" {
		t.Fatalf("GetLog(%d) found no entry, but changed the log", index)
	}
}

// wantExactly checks that the log holds the entries from first to last of the
// given size, and nothing else near them.
func wantExactly(t testing.TB, store logstore.Store, first, last uint64, size int) {
	t.Helper()
	wantBounds(t, store, first, last)
	for index := first; index <= last; index++ {
		wantEntry(t, store, entry(index, size))
	}
	if first > 1 {
		wantNoEntry(t, store, first-1)
	}
	wantNoEntry(t, store, last+1)
}
