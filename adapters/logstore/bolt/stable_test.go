package bolt

import (
	"bytes"
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

func openStore(t *testing.T) *store {
	t.Helper()
	opened, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return opened.(*store)
}

// If any bit changes, the value must not be read as another one.
func TestAFlippedBitOfTheStableStateIsFound(t *testing.T) {
	s := openStore(t)
	if err := s.SetUint64(logstore.VoteTermKey, 7); err != nil {
		t.Fatal(err)
	}
	stored, err := s.inner.Get(logstore.VoteTermKey)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(stored) {
		flipped := bytes.Clone(stored)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := s.inner.Set(logstore.VoteTermKey, flipped); err != nil {
			t.Fatal(err)
		}
		if got, err := s.GetUint64(logstore.VoteTermKey); err == nil {
			t.Errorf("value with bit %d flipped = %d, want an error", bit, got)
		}
	}
	if err := s.Set(logstore.VoteCandidateKey, []byte("10.0.0.1:8008")); err != nil {
		t.Fatal(err)
	}
	other, err := s.inner.Get(logstore.VoteCandidateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.inner.Set(logstore.TermKey, other); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(logstore.TermKey); !errors.Is(err, logstore.ErrDamaged) {
		t.Errorf("value of another key: error = %v, want damage", err)
	}
}

func TestAStableStateWithoutSealsIsRead(t *testing.T) {
	s := openStore(t)
	if err := s.inner.Set(logstore.TermKey, []byte{0, 0, 0, 0, 0, 0, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := s.inner.Set(logstore.VoteCandidateKey, []byte("10.0.0.1:8008")); err != nil {
		t.Fatal(err)
	}
	if got, err := s.GetUint64(logstore.TermKey); got != 258 || err != nil {
		t.Errorf("GetUint64 = %d, %v, want the value without a seal", got, err)
	}
	if got, err := s.Get(logstore.VoteCandidateKey); string(got) != "10.0.0.1:8008" || err != nil {
		t.Errorf("Get = %q, %v, want the value without a seal", got, err)
	}
}
