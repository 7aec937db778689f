package consensus

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
)

// gappedStore is a store whose log lacks entries before its last one.
type gappedStore struct{ logstore.Store }

func (gappedStore) LastIndex() (uint64, error) { return 5, nil }
func (gappedStore) GetLog(i uint64, l *raft.Log) error {
	if i < 5 {
		return raft.ErrLogNotFound
	}
	*l = raft.Log{Index: 5, Term: 1, Type: raft.LogNoop}
	return nil
}

// unreadable is a store whose keys can't be read.
type unreadable struct{ logstore.Store }

func (unreadable) GetUint64([]byte) (uint64, error) { return 0, errDisk }

func TestAStartThatFailsLeavesNothingBehind(t *testing.T) {
	around := func(wrap func(logstore.Store) logstore.Store) logstore.Opener {
		return func(directory string, log *slog.Logger) (logstore.Store, error) {
			store, err := bolt.Open(directory, log)
			if err != nil {
				return nil, err
			}
			return wrap(store), nil
		}
	}
	for name, test := range map[string]struct {
		open      logstore.Opener
		advertise string
	}{
		"the store can't be opened": {
			open: func(string, *slog.Logger) (logstore.Store, error) { return nil, errDisk }},
		"the store can't be read": {
			open: around(func(s logstore.Store) logstore.Store { return unreadable{s} })},
		"the log has a hole, over which raft panics": {
			open: around(func(s logstore.Store) logstore.Store { return gappedStore{s} })},
		"other instances can't dial the address": {
			open: bolt.Open, advertise: "0.0.0.0:1"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, directory := context.Background(), t.TempDir()
			i := newInstance(t, instanceConfig{id: "a", directory: directory, open: test.open, backend: "bolt"})
			i.config.AdvertisedAddress = test.advertise
			if err := errors.Join(i.Claim(ctx), i.demux.Open(ctx)); err != nil {
				t.Fatal(err)
			}
			if err := i.Open(ctx); err == nil {
				t.Error("Open = nil, want an error")
			}
			// This is the order in which the program closes them: the port first, if raft
			// did not start.
			if err := errors.Join(i.demux.Close(), i.Close(ctx)); err != nil {
				t.Errorf("Close = %v, want success", err)
			}
			// The directory and its store can be used again.
			start(t, instanceConfig{id: "a", directory: directory, bootstrap: true}).eventually(t, "leading", leading)
		})
	}
}

func TestADirectoryInUseIsNotTouched(t *testing.T) {
	ctx, directory := context.Background(), t.TempDir()
	owner := start(t, instanceConfig{id: "a", directory: directory, bootstrap: true})
	second := newInstance(t, instanceConfig{id: "a", directory: directory})
	if err := second.Claim(ctx); !errors.Is(err, logstore.ErrDirectoryInUse) {
		t.Errorf("Claim of a directory in use = %v, want ErrDirectoryInUse", err)
	}
	if err := errors.Join(second.Close(ctx), second.demux.Close()); err != nil {
		t.Errorf("Close = %v, want success", err)
	}
	owner.eventually(t, "leading", leading)
	register(t, owner, "a")
}
