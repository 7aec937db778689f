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

// snapshotStore keeps snapshots in the format of raft.FileSnapshotStore: each reads what the
// other writes. Beyond that, it verifies every description (see snapshotDescription), makes
// a snapshot durable together with its folder, and removes one so that no crash leaves a
// part of it under its name. It implements raft.SnapshotStore and is safe for concurrent
// use; its opener must have claimed the directory.
type snapshotStore struct {
	folder   string
	unusable []string // ids of snapshots that are not listed, and removed like older ones
	logger   *slog.Logger
}

// openSnapshots creates the folder, checks that it can be written, and makes the names in it
// durable: a process that was killed may have renamed a snapshot into place without doing so,
// and a start removes the entries that a snapshot replaces. Raft refuses to start
// if it can load none of the snapshots that are listed, even if the log has everything: so
// the unusable ones are hidden from it.
func openSnapshots(directory string, unusable []string, logger *slog.Logger) (*snapshotStore, error) {
	folder := filepath.Join(directory, logstore.SnapshotsFolder)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	probe, err := os.CreateTemp(folder, "probe-*"+unfinishedSuffix)
	if err != nil {
		return nil, fmt.Errorf("snapshots can't be written: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("snapshots can't be written: %w", err)
	}
	if err := errors.Join(logstore.SyncDir(folder), logstore.SyncDir(directory)); err != nil {
		return nil, fmt.Errorf("snapshots can't be made durable: %w", err)
	}
	return &snapshotStore{folder: folder, unusable: unusable, logger: logger}, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta, err := newSnapshotMeta(version, index, term, members, membersIndex)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.folder, meta.ID+unfinishedSuffix)
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
		meta:  snapshotDescription{SnapshotMeta: meta},
	}, nil
}

// List implements raft.SnapshotStore. It leaves out damaged snapshots.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	found, err := s.usable()
	if err != nil {
		return nil, err
	}
	var list []*raft.SnapshotMeta
	for i := range found[:min(len(found), retainedSnapshots)] {
		list = append(list, &found[i].SnapshotMeta)
	}
	return list, nil
}

// usable returns the snapshots with an intact description, except the unusable ones.
func (s *snapshotStore) usable() ([]snapshotDescription, error) {
	found, err := readSnapshotMetas(s.folder, func(path string, err error) {
		s.logger.Warn("a snapshot can't be used", "path", path, "error", err)
	})
	return slices.DeleteFunc(found, func(f snapshotDescription) bool { return slices.Contains(s.unusable, f.ID) }), err
}

// Open implements raft.SnapshotStore. It verifies the snapshot first.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	path := filepath.Join(s.folder, id)
	meta, err := readSnapshotMeta(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(path, snapshotMeta), err)
	}
	state, err := openSnapshotState(filepath.Join(path, snapshotState), meta.Size, meta.CRC)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(path, snapshotState), err)
	}
	return &meta.SnapshotMeta, state, nil
}

// reap removes the snapshots, damaged or not, that are older than those retained.
func (s *snapshotStore) reap() error {
	kept, err := s.usable()
	if err != nil || len(kept) <= retainedSnapshots {
		return err
	}
	oldest := kept[retainedSnapshots-1].SnapshotMeta
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		named, ok := parseSnapshotName(entry.Name())
		if !ok || compareSnapshots(&named, &oldest) >= 0 {
			continue
		}
		if err := removeSnapshot(filepath.Join(s.folder, named.ID)); err != nil {
			return err
		}
	}
	return nil
}

// syncFiles makes durable that the files of a complete snapshot are in its folder.
func (s *snapshotStore) syncFiles(id string) error {
	return logstore.SyncDir(filepath.Join(s.folder, id))
}

// syncSnapshotNames makes the names of the complete snapshots in the directory of an instance
// durable, as openSnapshots does.
func syncSnapshotNames(directory string) error {
	return logstore.SyncDir(filepath.Join(directory, logstore.SnapshotsFolder))
}

// removeSnapshot removes the folder of a snapshot, complete or not. If it is stopped at any
// point, it leaves all of it, or only a folder that has the name of an unfinished one.
func removeSnapshot(path string) error {
	if doomed := path + unfinishedSuffix; filepath.Ext(path) != unfinishedSuffix {
		if err := errors.Join(os.RemoveAll(doomed), os.Rename(path, doomed)); err != nil {
			return err
		}
		// Otherwise a crash could keep the old name, but not the files.
		if err := logstore.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
		path = doomed
	}
	return os.RemoveAll(path)
}

// snapshotSink is a snapshot that is being written. One goroutine uses it.
type snapshotSink struct {
	store  *snapshotStore
	path   string // of its folder
	state  *os.File
	sum    hash.Hash64
	out    *bufio.Writer
	meta   snapshotDescription
	closed bool // raft may close a sink twice, and cancel a closed one
}

// ID implements raft.SnapshotSink.
func (s *snapshotSink) ID() string { return s.meta.ID }

// Write implements io.Writer.
func (s *snapshotSink) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	s.meta.Size += int64(n)
	return n, err
}

// Close implements raft.SnapshotSink. It makes the snapshot durable, or removes it.
func (s *snapshotSink) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
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
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.state.Close(), os.RemoveAll(s.path))
}
