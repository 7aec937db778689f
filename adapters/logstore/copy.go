package logstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// The limits of a chunk. A single entry may be larger.
const (
	chunkEntries = 1024
	chunkBytes   = 1 << 20
)

// bounds are the first and the last index of a log; both 0 when it is empty.
type bounds struct{ first, last uint64 }

func boundsOf(store Store) (b bounds, err error) {
	if b.first, err = store.FirstIndex(); err != nil {
		return b, err
	}
	b.last, err = store.LastIndex()
	return b, err
}

// copyLog copies all entries, chunk by chunk, and calls copied when a chunk is durable.
// Gaps in the log are gaps in the copy.
func copyLog(ctx context.Context, from, to Store, copied func(first, last uint64)) error {
	within, err := boundsOf(from)
	if err != nil || within.first == 0 {
		return err
	}
	next := within.first
	for next <= within.last {
		if err := ctx.Err(); err != nil {
			return err
		}
		var chunk []*raft.Log
		size := 0
		for ; next <= within.last && len(chunk) < chunkEntries && size < chunkBytes; next++ {
			entry := new(raft.Log)
			err := from.GetLog(next, entry)
			if errors.Is(err, raft.ErrLogNotFound) {
				continue
			}
			if err != nil {
				return fmt.Errorf("entry %d: %w", next, err)
			}
			chunk = append(chunk, entry)
			size += len(entry.Data) + len(entry.Extensions)
		}
		if len(chunk) == 0 {
			continue
		}
		if err := to.StoreLogs(chunk); err != nil {
			return err
		}
		copied(chunk[0].Index, chunk[len(chunk)-1].Index)
	}
	return nil
}

func copyStableState(from, to Store) error {
	for _, key := range [][]byte{TermKey, VoteTermKey} {
		number, err := from.GetUint64(key)
		if errors.Is(err, ErrKeyNotFound) {
			continue
		}
		if err := errors.Join(err, to.SetUint64(key, number)); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	candidate, err := from.Get(VoteCandidateKey)
	if errors.Is(err, ErrKeyNotFound) {
		return nil
	}
	if err := errors.Join(err, to.Set(VoteCandidateKey, candidate)); err != nil {
		return fmt.Errorf("%s: %w", VoteCandidateKey, err)
	}
	return nil
}

// compareStores returns an error that says how b differs from a; nil if it does not.
func compareStores(ctx context.Context, a, b Store) error {
	if err := compareStableState(a, b); err != nil {
		return err
	}
	within, err := boundsOf(a)
	if err != nil {
		return err
	}
	copied, err := boundsOf(b)
	if err != nil {
		return err
	}
	if within != copied {
		return fmt.Errorf("it has entries %d to %d, not %d to %d", copied.first, copied.last, within.first, within.last)
	}
	for index := within.first; index != 0 && index <= within.last; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		var ours, theirs raft.Log
		err := a.GetLog(index, &ours)
		missing := errors.Is(err, raft.ErrLogNotFound)
		if err != nil && !missing {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		err = b.GetLog(index, &theirs)
		switch {
		case missing && errors.Is(err, raft.ErrLogNotFound):
		case err != nil:
			return fmt.Errorf("entry %d of the copy: %w", index, err)
		case missing || !sameEntry(&ours, &theirs):
			return fmt.Errorf("entry %d is another one", index)
		}
	}
	return nil
}

func sameEntry(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

func compareStableState(a, b Store) error {
	for _, key := range [][]byte{TermKey, VoteTermKey} {
		ours, err := a.GetUint64(key)
		theirs, otherErr := b.GetUint64(key)
		if ours != theirs || !alike(err, otherErr) {
			return fmt.Errorf("%s is %d (%v), not %d (%v)", key, theirs, otherErr, ours, err)
		}
	}
	ours, err := a.Get(VoteCandidateKey)
	theirs, otherErr := b.Get(VoteCandidateKey)
	if !bytes.Equal(ours, theirs) || !alike(err, otherErr) {
		return fmt.Errorf("%s is %q (%v), not %q (%v)", VoteCandidateKey, theirs, otherErr, ours, err)
	}
	return nil
}

// alike reports whether a key was found in both stores, or in neither.
func alike(a, b error) bool {
	if a == nil || b == nil {
		return a == b //nolint:errorlint // both are nil
	}
	return errors.Is(a, ErrKeyNotFound) && errors.Is(b, ErrKeyNotFound)
}

// reach is how far an instance has come. It never goes back.
type reach struct {
	term                uint64 // the current one
	lastTerm, lastIndex uint64 // of the last entry
}

func (r reach) String() string {
	return fmt.Sprintf("term %d, up to entry %d of term %d", r.term, r.lastIndex, r.lastTerm)
}

func (r reach) before(other reach) bool {
	return cmp.Or(cmp.Compare(r.term, other.term), cmp.Compare(r.lastTerm, other.lastTerm), cmp.Compare(r.lastIndex, other.lastIndex)) < 0
}

func reachOf(store Store) (reach, error) {
	term, err := store.GetUint64(TermKey)
	if err != nil && !errors.Is(err, ErrKeyNotFound) {
		return reach{}, err
	}
	within, err := boundsOf(store)
	if err != nil || within.last == 0 {
		return reach{term: term}, err
	}
	var last raft.Log
	if err := store.GetLog(within.last, &last); err != nil {
		return reach{}, fmt.Errorf("entry %d: %w", within.last, err)
	}
	return reach{term: term, lastTerm: last.Term, lastIndex: last.Index}, nil
}

// withSnapshots returns r, or the reach of the last snapshot in dir if that is farther:
// the entries that a snapshot holds may have been removed from the log.
func (r reach) withSnapshots(dir string) reach {
	entries, _ := os.ReadDir(filepath.Join(dir, SnapshotsFolder)) // without them there is none
	for _, entry := range entries {
		term, index, _, ok := SnapshotName(entry.Name())
		if snapshot := (reach{term: r.term, lastTerm: term, lastIndex: index}); ok && r.before(snapshot) {
			r = snapshot
		}
	}
	return r
}
