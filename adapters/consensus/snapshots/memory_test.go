package snapshots

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// beginSnapshot begins a snapshot with this content.
func beginSnapshot(t *testing.T, store raft.SnapshotStore, index uint64, content string) raft.SnapshotSink {
	t.Helper()
	members := raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: "n1:1"}}}
	sink, err := store.Create(raft.SnapshotVersionMax, index, 3, members, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(sink, content); err != nil {
		t.Fatal(err)
	}
	return sink
}

// mustList fails unless the store lists complete snapshots that end with these entries.
func mustList(t *testing.T, store raft.SnapshotStore, want ...uint64) {
	t.Helper()
	list, err := store.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for _, meta := range list {
		got = append(got, meta.Index)
		opened, content, err := store.Open(meta.ID)
		if err != nil {
			t.Fatal(err)
		}
		state, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			t.Fatal(err)
		}
		if opened.Index != meta.Index || opened.Size != int64(len(state)) || len(opened.Configuration.Servers) != 1 || opened.ConfigurationIndex != 2 {
			t.Errorf("snapshot = %+v as listed, %+v with %d bytes as opened, want the same", meta, opened, len(state))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("indexes of the snapshots = %v, want %v", got, want)
	}
}

func TestASnapshotInMemoryIsThereWhenItIsClosed(t *testing.T) {
	var store Memory
	mustList(t, &store)
	first := beginSnapshot(t, &store, 7, "seven")
	mustList(t, &store)
	if _, _, err := store.Open(first.ID()); err == nil {
		t.Error("Open of an incomplete snapshot = nil error, want an error")
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		mustList(t, &store, 7)
	}
	second := beginSnapshot(t, &store, 8, "eight")
	mustList(t, &store, 7)
	if err := errors.Join(second.Close(), second.Cancel()); err != nil {
		t.Fatal(err)
	}
	mustList(t, &store, 8)
}

func TestASnapshotInMemoryThatIsCancelledLeavesTheOneBefore(t *testing.T) {
	var store Memory
	if err := beginSnapshot(t, &store, 7, "seven").Close(); err != nil {
		t.Fatal(err)
	}
	cancelled := beginSnapshot(t, &store, 8, "eig")
	for range 2 {
		if err := cancelled.Cancel(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cancelled.Close(); err != nil {
		t.Fatal(err)
	}
	mustList(t, &store, 7)
}

// A snapshot may be made while a leader's is installed, and a leader may send a snapshot
// that is older than one that could not be restored.
func TestAnOlderSnapshotInMemoryDoesNotTakeThePlaceOfTheNewest(t *testing.T) {
	var store Memory
	for _, step := range []struct {
		closed uint64
		kept   []uint64
	}{
		{9, []uint64{9}},
		{7, []uint64{9, 7}},
		{8, []uint64{9, 8}},
		{6, []uint64{9, 6}},
		{10, []uint64{10}},
	} {
		if err := beginSnapshot(t, &store, step.closed, "state").Close(); err != nil {
			t.Fatal(err)
		}
		mustList(t, &store, step.kept...)
	}
}

func TestASnapshotInMemoryIsReadBesideAWriter(t *testing.T) {
	var store Memory
	if err := beginSnapshot(t, &store, 1, strings.Repeat("1", 4096)).Close(); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		for index := uint64(2); index < 200; index++ {
			sink, err := store.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 2, nil)
			for range 16 {
				_, other := sink.Write(bytes.Repeat([]byte{'0' + byte(index%10)}, 256))
				err = errors.Join(err, other)
			}
			if err := errors.Join(err, sink.Close()); err != nil {
				t.Error(err)
			}
		}
	}()
	for over := false; !over; {
		select {
		case <-written:
			over = true
		default:
		}
		list, err := store.List()
		if err != nil || len(list) != 1 {
			t.Fatalf("number of snapshots = %d, %v, want 1", len(list), err)
		}
		_, content, err := store.Open(list[0].ID)
		if err != nil {
			continue // a newer snapshot has taken its place
		}
		state, err := io.ReadAll(content)
		if err != nil || len(state) != 4096 || len(bytes.Trim(state, string(state[:1]))) > 0 {
			t.Fatalf("a snapshot of %d bytes is mixed from two, %v", len(state), err)
		}
	}
}
