package logstoretest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// model runs the same random operations on the store and on two maps, and compares them.
func (s *suite) model(t *testing.T) {
	root := t.TempDir()
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		dir := filepath.Join(root, fmt.Sprint(runs))
		if err := os.Mkdir(dir, 0o700); err != nil {
			r.Fatal(err)
		}
		m := &machine{
			open:   func() logstore.Store { return s.open(t, dir) },
			logs:   map[uint64]*raft.Log{},
			stable: map[string]uint64{},
		}
		m.store = m.open()
		defer func() {
			if err := m.store.Close(); err != nil {
				r.Errorf("close: %v", err)
			}
		}()
		actions := map[string]func(*rapid.T){
			"":          m.check,
			"store":     m.storeLogs,
			"append":    m.appendLogs,
			"delete":    m.deleteRange,
			"setUint64": m.setUint64,
		}
		if s.durable {
			actions["reopen"] = m.reopen
		}
		r.Repeat(actions)
	})
}

type machine struct {
	open   func() logstore.Store
	store  logstore.Store
	logs   map[uint64]*raft.Log
	stable map[string]uint64
	checks uint64 // how many times check ran
}

// largeEntry is a size from which a backend may store an entry in a different way.
const largeEntry = 1 << 20

// There are few indexes, so that the operations overlap.
var indexes = rapid.Uint64Range(1, 60)

func (m *machine) storeLogs(r *rapid.T) {
	m.keep(r, indexes.Draw(r, "from"), rapid.Uint64Range(0, 8).Draw(r, "count"))
}

func (m *machine) appendLogs(r *rapid.T) {
	_, last := m.bounds()
	m.keep(r, last+1, rapid.Uint64Range(1, 8).Draw(r, "count"))
}

func (m *machine) keep(r *rapid.T, from, count uint64) {
	size := rapid.IntRange(0, 200).Draw(r, "size")
	if rapid.IntRange(0, 39).Draw(r, "large") == 39 {
		size, count = largeEntry+size, min(count, 1)
	}
	var logs []*raft.Log
	for index := from; index < from+count; index++ {
		log := entry(index, size)
		log.Term = rapid.Uint64().Draw(r, "term")
		logs = append(logs, log)
		m.logs[index] = log
	}
	if err := m.store.StoreLogs(logs); err != nil {
		r.Fatalf("StoreLogs: %v", err)
	}
}

func (m *machine) deleteRange(r *rapid.T) {
	low, high := indexes.Draw(r, "low"), indexes.Draw(r, "high")
	if err := m.store.DeleteRange(low, high); err != nil {
		r.Fatalf("DeleteRange(%d, %d): %v", low, high, err)
	}
	maps.DeleteFunc(m.logs, func(index uint64, _ *raft.Log) bool { return low <= index && index <= high })
}

func (m *machine) setUint64(r *rapid.T) {
	key, value := rapid.SampledFrom([]string{"a", "b"}).Draw(r, "key"), rapid.Uint64().Draw(r, "value")
	if err := m.store.SetUint64([]byte(key), value); err != nil {
		r.Fatalf("SetUint64: %v", err)
	}
	m.stable[key] = value
}

func (m *machine) reopen(r *rapid.T) {
	if err := m.store.Close(); err != nil {
		r.Fatalf("Close: %v", err)
	}
	m.store = m.open()
}

func (m *machine) bounds() (first, last uint64) {
	if len(m.logs) == 0 {
		return 0, 0
	}
	stored := slices.Collect(maps.Keys(m.logs))
	return slices.Min(stored), slices.Max(stored)
}

func (m *machine) check(r *rapid.T) {
	m.checks++
	wantFirst, wantLast := m.bounds()
	first, err := m.store.FirstIndex()
	if err != nil || first != wantFirst {
		r.Fatalf("FirstIndex = %d, %v, want %d", first, err, wantFirst)
	}
	last, err := m.store.LastIndex()
	if err != nil || last != wantLast {
		r.Fatalf("LastIndex = %d, %v, want %d", last, err, wantLast)
	}
	for index := range wantLast + 2 {
		want, stored := m.logs[index]
		if stored && len(want.Data) >= largeEntry && (m.checks+index)%4 != 0 {
			continue // reading a large entry is slow with the race detector
		}
		var got raft.Log
		err := m.store.GetLog(index, &got)
		switch {
		case !stored && err != raft.ErrLogNotFound: //nolint:errorlint // raft compares with ==
			r.Fatalf("GetLog(%d) = %v, want raft.ErrLogNotFound", index, err)
		case stored && err != nil:
			r.Fatalf("GetLog(%d): %v", index, err)
		case stored:
			if how := differs(&got, want); how != "" {
				r.Fatalf("GetLog(%d): %s", index, how)
			}
		}
	}
	for key, want := range m.stable {
		if got, err := m.store.GetUint64([]byte(key)); err != nil || got != want {
			r.Fatalf("GetUint64(%q) = %d, %v, want %d", key, got, err, want)
		}
	}
}
