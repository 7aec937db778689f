package logstoretest

import (
	"testing"
)

func (s *suite) reopening(t *testing.T) {
	dir := t.TempDir()
	const size = 50
	store := s.open(t, dir)
	reopen := func() {
		t.Helper()
		if err := store.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
		store = s.open(t, dir)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()

	reopen()
	wantBounds(t, store, 0, 0)

	mustStore(t, store, entries(11, 500, size)...)
	if err := store.SetUint64([]byte("term"), 12); err != nil {
		t.Fatal(err)
	}
	if err := store.Set([]byte("vote"), []byte("node1")); err != nil {
		t.Fatal(err)
	}
	reopen()
	wantExactly(t, store, 11, 500, size)
	if term, err := store.GetUint64([]byte("term")); err != nil || term != 12 {
		t.Fatalf("term = %d, %v after reopening, want 12", term, err)
	}
	if vote, err := store.Get([]byte("vote")); err != nil || string(vote) != "node1" {
		t.Fatalf("vote = %q, %v after reopening, want node1", vote, err)
	}

	mustDelete(t, store, 1, 400)
	mustDelete(t, store, 480, 600)
	reopen()
	wantExactly(t, store, 401, 479, size)

	mustStore(t, store, entries(480, 520, size)...)
	reopen()
	wantExactly(t, store, 401, 520, size)

	mustDelete(t, store, 1, 1000)
	reopen()
	wantBounds(t, store, 0, 0)
	mustStore(t, store, entries(90_000, 90_010, size)...)
	reopen()
	wantExactly(t, store, 90_000, 90_010, size)
}
