// Package logstore is where an instance keeps what raft must never forget: its
// log and its stable state (the current term and vote). It names the contract
// that every backend fulfils, owns the claim on the directory in which a backend
// keeps its files, and moves a directory from one backend to another.
//
// It never drives raft, never looks into an entry, and does not know its
// backends: they import this package and nothing else of ours. Whoever wants a
// new backend implements Store, exports an Opener and passes logstoretest.Run.
package logstore

import (
	"errors"
	"io"
	"log/slog"

	"github.com/hashicorp/raft"
)

// ErrKeyNotFound is what Get and GetUint64 return for a key that was never set.
//
// Every backend returns this very value, unwrapped: raft takes an error for a
// missing key only when its whole text is "not found", and for a broken disk
// otherwise.
var ErrKeyNotFound = errors.New("not found")

// ErrClosed is what every method but Close returns once the store, or the claim on
// its directory, is closed.
var ErrClosed = errors.New("closed")

// Store holds one instance's raft log and stable state.
//
// # Concurrency
//
// Any number of readers (FirstIndex, LastIndex, GetLog, Get, GetUint64) may run
// beside one another and beside one writer (StoreLog, StoreLogs, DeleteRange,
// Set, SetUint64). The store serializes concurrent writers. A reader
// sees an entry whole or not at all. Close may be called at any time: it waits
// for the calls in flight, and later calls return ErrClosed.
//
// # The log
//
// Entries are kept under their Index, which is 1 or more, may begin anywhere and may have
// gaps (raft leaves one when it installs a snapshot).
//
// FirstIndex and LastIndex return the lowest and the highest stored index, and
// 0 when there is none. They cost the same in a log of ten entries and of a
// million.
//
// GetLog fills the whole of the given log, leaving nothing of what it held
// before, and shares no memory with the store: Index, Term, Type, Data,
// Extensions and AppendedAt come back as they were stored (nil and empty bytes
// are the same; AppendedAt is the same instant, to the nanosecond, in UTC). For an index
// that is not stored it returns exactly raft.ErrLogNotFound, not wrapped,
// because raft compares with ==, and leaves the given log alone.
//
// StoreLog and StoreLogs return nil only when all entries are durable: they
// survive the end of the process and, where the disk keeps its word, of the
// power. They do not keep the slices that they were given. An index that is
// stored already is overwritten. Entries are stored in the order given: after a
// crash, or an error, any prefix of the batch may be there, but nothing else.
//
// DeleteRange removes the entries from min to max, both included; bounds that
// reach beyond the log, or a range that holds nothing, are not an error. A crash
// in the middle leaves no hole: a range that reaches the end of the log is
// removed from the end, any other from its beginning.
//
// # The stable state
//
// Get and GetUint64 return ErrKeyNotFound for a key that was never set. An empty
// value is a value. Set and SetUint64 return when the value is durable, and
// replace the old value at once or not at all. What SetUint64 wrote is read with GetUint64.
//
// # The end
//
// Close releases everything, waits for every goroutine of the store, and may be
// called again: the second call does nothing and returns nil.
type Store interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

// Opener opens a backend's store in dir, which exists and is claimed (see
// Claim), creating it when it is not there. Everything that the backend keeps
// lies in dir under the one name "log.<backend>", so that two backends can stand
// side by side while one is converted to the other.
//
// Before it returns a store that keeps anything it makes the names in dir durable: a process
// that was killed may have created or renamed the store, the manifest or a note there without
// doing so.
//
// A store that a crash left behind is repaired if that loses nothing that was
// acknowledged; other damage is an error that names the file. A nil logger
// logs nothing. The caller closes the store.
type Opener func(dir string, logger *slog.Logger) (Store, error)
