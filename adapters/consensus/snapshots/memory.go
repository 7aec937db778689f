package snapshots

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// Memory keeps snapshots in memory: the newest one, and the one that was completed last if that
// is another, because raft opens it next. raft.InmemSnapshotStore lists a snapshot before it is
// complete, and a cancelled one instead of the one before. The zero Memory is empty. It
// implements raft.SnapshotStore and is safe for concurrent use.
type Memory struct {
	mu   sync.Mutex
	kept []memorySnapshot // complete, the newest first
}

// memorySnapshot is never modified once it is complete.
type memorySnapshot struct {
	meta  raft.SnapshotMeta
	state []byte
}

// Create implements raft.SnapshotStore.
func (s *Memory) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta, err := newMeta(version, index, term, members, membersIndex)
	if err != nil {
		return nil, err
	}
	return &memorySink{store: s, meta: meta}, nil
}

// List implements raft.SnapshotStore.
func (s *Memory) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*raft.SnapshotMeta
	for _, snapshot := range s.kept {
		list = append(list, &snapshot.meta)
	}
	return list, nil
}

// Open implements raft.SnapshotStore.
func (s *Memory) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snapshot := range s.kept {
		if snapshot.meta.ID == id {
			return &snapshot.meta, io.NopCloser(bytes.NewReader(snapshot.state)), nil
		}
	}
	return nil, nil, fmt.Errorf("there is no snapshot %s", id)
}

// keep adds a complete snapshot, and drops those that are not newer.
func (s *Memory) keep(complete memorySnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newer := slices.DeleteFunc(slices.Clone(s.kept), func(old memorySnapshot) bool { return compare(&old.meta, &complete.meta) <= 0 })
	s.kept = append(newer[:min(len(newer), 1)], complete)
}

// memorySink is a snapshot that is being made. One goroutine uses it.
type memorySink struct {
	store  *Memory
	meta   raft.SnapshotMeta
	state  bytes.Buffer
	closed bool // raft may close a sink twice, and cancel a closed one
}

// ID implements raft.SnapshotSink.
func (s *memorySink) ID() string { return s.meta.ID }

// Write implements io.Writer.
func (s *memorySink) Write(p []byte) (int, error) { return s.state.Write(p) }

// Close implements raft.SnapshotSink. It adds the snapshot to the store.
func (s *memorySink) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	s.meta.Size = int64(s.state.Len())
	s.store.keep(memorySnapshot{s.meta, s.state.Bytes()})
	return nil
}

// Cancel implements raft.SnapshotSink. It drops the snapshot.
func (s *memorySink) Cancel() error {
	s.closed = true
	return nil
}
