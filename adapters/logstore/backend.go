package logstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
)

// ErrNoStore is what Inspect returns where there is no store, or one that was
// created and never written.
var ErrNoStore = errors.New("there is no log store")

// ErrReadOnly is what every write to a store gets that was opened for reading.
var ErrReadOnly = errors.New("log store is open for reading only")

// Backend is one of the ways to keep a log. Who puts the program together has
// the list of them.
type Backend struct {
	Name string // as the manifest has it

	// Open is for an instance that runs.
	Open Opener

	// Inspect is for looking at what an instance left: it opens what is there and
	// changes nothing in the directory, not even to repair it. What a repair would
	// drop is not shown. Where there is nothing it returns ErrNoStore. What is no
	// damage, and yet worth telling an operator, is a warning to the logger.
	// Writes to the store return ErrReadOnly.
	Inspect Opener

	// Volatile: nothing outlives the process.
	Volatile bool
}

// Backends are those that there are to choose from.
type Backends []Backend

// Named gives the one of that name, or an error that says which there are.
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

// Path is where the backend keeps its files, of a directory.
func (b Backend) Path(dir string) string { return filepath.Join(dir, storeName(b.Name)) }

// storeName is part of the contract of Opener.
func storeName(backend string) string { return storePrefix + backend }

const storePrefix = "log."

// ReadOnly gives store to those who may only look at it. They close it.
func ReadOnly(store Store) Store { return readOnly{store} }

type readOnly struct{ Store }

func (readOnly) StoreLog(*raft.Log) error         { return ErrReadOnly }
func (readOnly) StoreLogs([]*raft.Log) error      { return ErrReadOnly }
func (readOnly) DeleteRange(uint64, uint64) error { return ErrReadOnly }
func (readOnly) Set([]byte, []byte) error         { return ErrReadOnly }
func (readOnly) SetUint64([]byte, uint64) error   { return ErrReadOnly }

// The keys under which raft keeps its stable state: all that there are, and raft
// does not export them. What a vote was given to is an address.
var (
	TermKey          = []byte("CurrentTerm")  // a number
	VoteTermKey      = []byte("LastVoteTerm") // a number
	VoteCandidateKey = []byte("LastVoteCand") // bytes
)
