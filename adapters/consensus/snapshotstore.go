package consensus

import (
	"bufio"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// snapshotStore keeps the snapshots of an instance as raft.FileSnapshotStore does, so
// that builds which use that one read what this one writes, and the other way round.
// But it believes no description that is not proven (see snapshotFile), makes a
// snapshot durable with the folder that it lies in, and removes one so that no crash
// leaves a part of it under its name. It implements raft.SnapshotStore and is safe for
// concurrent use; whoever opens it has claimed the directory.
type snapshotStore struct {
	folder   string
	unusable []string // ids of snapshots that are left out, and go when newer ones take their place
	logger   *slog.Logger
}

// openSnapshots makes the folder, and finds out at once whether it can be written. Raft
// does not start where there are snapshots and it can load none of them, whatever the
// log has: so those that were found to be unusable are not there for it.
func openSnapshots(directory string, unusable []string, logger *slog.Logger) (*snapshotStore, error) {
	folder := filepath.Join(directory, logstore.SnapshotsFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	probe, err := os.CreateTemp(folder, "probe-*"+unfinished)
	if err != nil {
		return nil, fmt.Errorf("snapshots can't be written: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("snapshots can't be written: %w", err)
	}
	return &snapshotStore{folder: folder, unusable: unusable, logger: logger}, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta, err := newSnapshotMeta(version, index, term, members, membersIndex)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.folder, meta.ID+unfinished)
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	state, err := os.OpenFile(filepath.Join(path, snapshotState), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	sum := crc64.New(stateTable)
	return &snapshotSink{
		store: s,
		path:  path,
		state: state,
		sum:   sum,
		out:   bufio.NewWriterSize(io.MultiWriter(state, sum), 64<<10),
		meta:  snapshotFile{SnapshotMeta: meta},
	}, nil
}

// List implements raft.SnapshotStore: it leaves out what is damaged.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	found, err := s.described()
	if err != nil {
		return nil, err
	}
	var list []*raft.SnapshotMeta
	for i := range found[:min(len(found), retainedSnapshots)] {
		list = append(list, &found[i].SnapshotMeta)
	}
	return list, nil
}

func (s *snapshotStore) described() ([]snapshotFile, error) {
	found, err := describedSnapshots(s.folder, func(path string, err error) {
		s.logger.Warn("a snapshot can't be used", "path", path, "error", err)
	})
	return slices.DeleteFunc(found, func(f snapshotFile) bool { return slices.Contains(s.unusable, f.ID) }), err
}

// Open implements raft.SnapshotStore: what it gives is proven.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	path := filepath.Join(s.folder, id)
	meta, err := readSnapshotMeta(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(path, snapshotMeta), err)
	}
	state, err := openSnapshotState(filepath.Join(path, snapshotState), meta)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(path, snapshotState), err)
	}
	return &meta.SnapshotMeta, state, nil
}

// reap removes what newer snapshots have taken the place of, be it damaged or not.
func (s *snapshotStore) reap() error {
	kept, err := s.described()
	if err != nil || len(kept) <= retainedSnapshots {
		return err
	}
	oldest := kept[retainedSnapshots-1].SnapshotMeta
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		named, ok := snapshotNamed(entry.Name())
		if !ok || compareSnapshots(&named, &oldest) >= 0 {
			continue
		}
		if err := removeSnapshot(filepath.Join(s.folder, named.ID)); err != nil {
			return err
		}
	}
	return nil
}

// removeSnapshot removes the folder of a snapshot, whole or not. Stopped at any point it
// leaves all of it, or nothing that has the name of one that is complete.
func removeSnapshot(path string) error {
	if doomed := path + unfinished; filepath.Ext(path) != unfinished {
		if err := errors.Join(os.RemoveAll(doomed), os.Rename(path, doomed)); err != nil {
			return err
		}
		// Or the files may go before the name does.
		if err := logstore.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
		path = doomed
	}
	return os.RemoveAll(path)
}

// snapshotSink is a snapshot that is being written. One goroutine uses it.
type snapshotSink struct {
	store *snapshotStore
	path  string // of its folder
	state *os.File
	sum   hash.Hash64
	out   *bufio.Writer
	meta  snapshotFile
	over  bool // raft closes what is closed, and cancels it
}

// ID implements raft.SnapshotSink.
func (s *snapshotSink) ID() string { return s.meta.ID }

// Write implements io.Writer.
func (s *snapshotSink) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	s.meta.Size += int64(n)
	return n, err
}

// Close implements raft.SnapshotSink: the snapshot is complete and on disk, or there is
// nothing of it.
func (s *snapshotSink) Close() error {
	if s.over {
		return nil
	}
	s.over = true
	if err := s.complete(); err != nil {
		return errors.Join(fmt.Errorf("write snapshot %s: %w", s.meta.ID, err), removeSnapshot(s.path))
	}
	if err := s.store.reap(); err != nil {
		s.store.logger.Warn("snapshots that are not needed any more could not be removed", "error", err)
	}
	return nil
}

func (s *snapshotSink) complete() error {
	if err := errors.Join(s.out.Flush(), s.state.Sync(), s.state.Close()); err != nil {
		return err
	}
	s.meta.CRC = s.sum.Sum(nil)
	description, err := s.meta.encode()
	if err != nil {
		return err
	}
	if err := logstore.ReplaceFile(s.path, snapshotMeta, description); err != nil {
		return err
	}
	complete := filepath.Join(s.store.folder, s.meta.ID)
	if err := os.Rename(s.path, complete); err != nil {
		return err
	}
	s.path = complete
	return logstore.SyncDir(s.store.folder)
}

// Cancel implements raft.SnapshotSink.
func (s *snapshotSink) Cancel() error {
	if s.over {
		return nil
	}
	s.over = true
	return errors.Join(s.state.Close(), os.RemoveAll(s.path))
}
