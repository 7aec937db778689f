package snapshots

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

// Retained is how many snapshots stay on disk: the latest, and one to fall back on.
const Retained = 2

// Store keeps snapshots on disk. Beyond what raft.FileSnapshotStore does, it verifies every
// description, makes a snapshot durable together with its folder, and removes one so that no
// crash leaves a part of it under its name. It implements raft.SnapshotStore and is safe for
// concurrent use. It holds nothing open, and needs no closing; its opener must have claimed
// the directory.
type Store struct {
	folder   string
	unusable []string // ids of snapshots that are not listed, and removed like older ones
	logger   *slog.Logger
}

// Open creates the folder in the directory of an instance, checks that it can be written, and
// makes the names in it durable: a process that was killed may have renamed a snapshot into
// place without doing so, and a start removes the entries that a snapshot replaces. Raft
// refuses to start if it can load none of the snapshots that are listed, even if the log has
// everything: so those whose ids are in unusable are hidden from it.
func Open(directory string, unusable []string, logger *slog.Logger) (*Store, error) {
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
	return &Store{folder: folder, unusable: unusable, logger: logger}, nil
}

// Create implements raft.SnapshotStore.
func (s *Store) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	meta, err := newMeta(version, index, term, members, membersIndex)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.folder, meta.ID+unfinishedSuffix)
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	state, err := os.OpenFile(filepath.Join(path, stateFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	sum := crc64.New(stateTable)
	return &diskSink{
		store: s,
		path:  path,
		state: state,
		sum:   sum,
		out:   bufio.NewWriterSize(io.MultiWriter(state, sum), 64<<10),
		meta:  description{SnapshotMeta: meta},
	}, nil
}

// List implements raft.SnapshotStore. It leaves out damaged snapshots.
func (s *Store) List() ([]*raft.SnapshotMeta, error) {
	found, err := s.usable()
	if err != nil {
		return nil, err
	}
	var list []*raft.SnapshotMeta
	for i := range found[:min(len(found), Retained)] {
		list = append(list, &found[i].SnapshotMeta)
	}
	return list, nil
}

// usable returns the snapshots with an intact description, except the unusable ones.
func (s *Store) usable() ([]description, error) {
	found, err := readDescriptions(s.folder, func(path string, err error) {
		s.logger.Warn("a snapshot can't be used", "path", path, "error", err)
	})
	return slices.DeleteFunc(found, func(f description) bool { return slices.Contains(s.unusable, f.ID) }), err
}

// Open implements raft.SnapshotStore. It verifies the snapshot first.
func (s *Store) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	path := filepath.Join(s.folder, id)
	meta, err := readDescription(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(path, metaFile), err)
	}
	state, err := openState(filepath.Join(path, stateFile), meta.Size, meta.CRC)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(path, stateFile), err)
	}
	return &meta.SnapshotMeta, state, nil
}

// reap removes the snapshots, damaged or not, that are older than those retained.
func (s *Store) reap() error {
	kept, err := s.usable()
	if err != nil || len(kept) <= Retained {
		return err
	}
	oldest := kept[Retained-1].SnapshotMeta
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		named, ok := parseName(entry.Name())
		if !ok || compare(&named, &oldest) >= 0 {
			continue
		}
		if err := Remove(filepath.Join(s.folder, named.ID)); err != nil {
			return err
		}
	}
	return nil
}

// SyncFiles makes durable that the files of a complete snapshot are in its folder.
func (s *Store) SyncFiles(id string) error {
	return logstore.SyncDir(filepath.Join(s.folder, id))
}

// SyncNames makes the names of the complete snapshots in the directory of an instance durable,
// as Open does: who removes what a snapshot replaces before that must call it first.
func SyncNames(directory string) error {
	return logstore.SyncDir(filepath.Join(directory, logstore.SnapshotsFolder))
}

// Remove removes the folder of a snapshot, complete or not. If it is stopped at any
// point, it leaves all of it, or only a folder that has the name of an unfinished one.
func Remove(path string) error {
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

// diskSink is a snapshot that is being written. One goroutine uses it.
type diskSink struct {
	store  *Store
	path   string // of its folder
	state  *os.File
	sum    hash.Hash64
	out    *bufio.Writer
	meta   description
	closed bool // raft may close a sink twice, and cancel a closed one
}

// ID implements raft.SnapshotSink.
func (s *diskSink) ID() string { return s.meta.ID }

// Write implements io.Writer.
func (s *diskSink) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	s.meta.Size += int64(n)
	return n, err
}

// Close implements raft.SnapshotSink. It makes the snapshot durable, or removes it.
func (s *diskSink) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.complete(); err != nil {
		return errors.Join(fmt.Errorf("write snapshot %s: %w", s.meta.ID, err), Remove(s.path))
	}
	if err := s.store.reap(); err != nil {
		s.store.logger.Warn("snapshots that are not needed any more could not be removed", "error", err)
	}
	return nil
}

func (s *diskSink) complete() error {
	if err := errors.Join(s.out.Flush(), s.state.Sync(), s.state.Close()); err != nil {
		return err
	}
	s.meta.CRC = s.sum.Sum(nil)
	description, err := s.meta.encode()
	if err != nil {
		return err
	}
	if err := logstore.ReplaceFile(s.path, metaFile, description); err != nil {
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
func (s *diskSink) Cancel() error {
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.state.Close(), os.RemoveAll(s.path))
}
