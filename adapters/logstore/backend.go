package logstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

// ErrNoStore is what Inspect returns if there is no store, or one that was
// created and never written.
var ErrNoStore = errors.New("there is no log store")

// ErrReadOnly is what every write returns to a store that was opened for reading.
var ErrReadOnly = errors.New("log store is open for reading only")

// Backend is one way to keep a log. The composition root has the list of them.
type Backend struct {
	Name string // as in the manifest

	// Open opens the store of an instance that runs.
	Open Opener

	// Inspect opens an existing store for reading. It changes nothing in the directory,
	// not even to repair it, and does not show what a repair would drop. If there is no
	// store it returns ErrNoStore. It warns the logger of what is no damage, but worth
	// telling an operator. Writes to the store return ErrReadOnly.
	Inspect Opener

	// Volatile: nothing outlives the process.
	Volatile bool
}

// Backends are the backends to choose from.
type Backends []Backend

// Named returns the backend of that name, or an error that lists all names.
func (b Backends) Named(name string) (Backend, error) {
	var names []string
	for _, backend := range b {
		if backend.Name == name {
			return backend, nil
		}
		names = append(names, backend.Name)
	}
	return Backend{}, fmt.Errorf("%q is none of %s", name, strings.Join(names, ", "))
}

// Path is where the backend keeps its files in dir.
func (b Backend) Path(dir string) string { return filepath.Join(dir, storeName(b.Name)) }

// storeName is part of the contract of Opener.
func storeName(backend string) string { return storePrefix + backend }

const storePrefix = "log."

// ReadOnly wraps store so that writes return ErrReadOnly. Its Close closes store.
func ReadOnly(store Store) Store { return readOnly{store} }

type readOnly struct{ Store }

func (readOnly) StoreLog(*raft.Log) error         { return ErrReadOnly }
func (readOnly) StoreLogs([]*raft.Log) error      { return ErrReadOnly }
func (readOnly) DeleteRange(uint64, uint64) error { return ErrReadOnly }
func (readOnly) Set([]byte, []byte) error         { return ErrReadOnly }
func (readOnly) SetUint64([]byte, uint64) error   { return ErrReadOnly }

// All keys under which raft keeps its stable state. Raft does not export them. The
// candidate is an address.
var (
	TermKey          = []byte("CurrentTerm")  // a number
	VoteTermKey      = []byte("LastVoteTerm") // a number
	VoteCandidateKey = []byte("LastVoteCand") // bytes
)
