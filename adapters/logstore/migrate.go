package logstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// migrationName is the folder where a migration keeps an incomplete store: one that is
// being written or removed. So anything under the name of a store is complete, and
// anything in this folder may be removed.
const migrationName = "migration.tmp"

// ErrInTheWay is what Migrate returns if there is a store at the path of the new one which
// can't be left over from an earlier migration.
var ErrInTheWay = errors.New("a log store is in the way")

// Step is a step of a migration that is done, durably.
type Step string

// The steps, in their order. The directory starts with the old backend up to
// StepPlaced, and with the new one from StepSwitched on.
const (
	StepCleared  Step = "cleared"   // what an earlier migration left is removed
	StepCopied   Step = "copied"    // another chunk of the log is in the new store
	StepVerified Step = "verified"  // all of the new store was read, and is the same
	StepPlaced   Step = "placed"    // the new store bears its name
	StepSwitched Step = "switched"  // the manifest names the new backend
	StepSetAside Step = "set aside" // the old store has lost its name
	StepRemoved  Step = "removed"   // the old store is gone
)

// Migration is the way from one backend to another.
type Migration struct {
	From, To Backend
	Logger   *slog.Logger // nil logs nothing

	// Watch, if it is not nil, is called after every step, with a text for an operator.
	// StepCleared comes only if there was something to clear, StepCopied once for each
	// chunk.
	Watch func(step Step, what string)
}

// Migrate moves the log and the stable state of the directory to another backend.
//
// It writes the new store beside the old one, reads it back and compares; then it
// replaces the manifest, and only then removes the old store. If it is stopped at any
// point, by ctx, an error or a crash, the directory belongs to one of the two backends
// and has lost nothing; the same call finishes the migration, even if only the old store
// is left to be removed. It needs memory for a chunk of the log, and disk for a second log.
//
// It returns ErrOtherBackend for a directory of a third backend, and for one that uses To
// already, with nothing left to do.
func (d *Directory) Migrate(ctx context.Context, m Migration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := errors.Join(d.mayWrite(), m.validate()); err != nil {
		return fmt.Errorf("migrate %s: %w", d.path, err)
	}
	if m.Watch == nil {
		m.Watch = func(Step, string) {}
	}
	w := migration{Migration: m, dir: d.path, temporary: filepath.Join(d.path, migrationName)}
	switch d.manifest.Backend {
	case m.To.Name:
		return w.finish()
	case m.From.Name:
	default:
		return fmt.Errorf("%w: %s was written by %q, not by %q", ErrOtherBackend, d.path, d.manifest.Backend, m.From.Name)
	}
	if err := w.build(ctx); err != nil {
		return fmt.Errorf("%w\nthe directory goes on with %s", errors.Join(err, w.clear()), m.From.Name)
	}
	if err := w.place(); err != nil {
		return err
	}
	content := d.manifest
	content.Backend = m.To.Name
	// After an error either manifest may be there, so both stores stay.
	if err := d.replaceManifest(content); err != nil {
		return err
	}
	m.Watch(StepSwitched, fmt.Sprintf("%s says %s", manifestName, m.To.Name))
	return w.removeOld()
}

// validate refuses migrations that would remove the only store.
func (m Migration) validate() error {
	switch {
	case m.From.Name == m.To.Name:
		return fmt.Errorf("from %q to itself", m.From.Name)
	case m.From.Volatile || m.To.Volatile:
		return fmt.Errorf("from %q to %q: one of them keeps nothing on disk", m.From.Name, m.To.Name)
	}
	return nil
}

// migration is a Migration under way.
type migration struct {
	Migration
	dir       string
	temporary string
}

// clear removes the temporary folder.
func (m *migration) clear() error {
	if err := os.RemoveAll(m.temporary); err != nil {
		return fmt.Errorf("remove the remains of a migration: %w", err)
	}
	return nil
}

// build makes the new store in the temporary folder, and verifies it.
func (m *migration) build(ctx context.Context) (err error) {
	// Open it for reading: a store that is damaged must be refused before anything is
	// changed, and a missing one must not be created.
	old, err := m.From.Inspect(m.dir, m.Logger)
	if err != nil {
		return fmt.Errorf("read the %s log store: %w", m.From.Name, err)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	if err := m.makeRoom(old); err != nil {
		return err
	}
	if err := os.Mkdir(m.temporary, 0o700); err != nil {
		return err
	}
	if err := m.copyInto(ctx, old); err != nil {
		return fmt.Errorf("copy the log to %s: %w", m.To.Name, err)
	}
	// Open the new store again, as the next process will.
	made, err := m.To.Inspect(m.temporary, m.Logger)
	if err != nil {
		return fmt.Errorf("read the copy of the log: %w", err)
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	if err := compareStores(ctx, old, made); err != nil {
		return fmt.Errorf("the copy of the log is not like the log: %w", err)
	}
	if err := syncTree(m.temporary); err != nil {
		return err
	}
	within, err := boundsOf(made)
	if err != nil {
		return err
	}
	what := "the log, which is empty"
	if within.last > 0 {
		what = fmt.Sprintf("entries %d to %d", within.first, within.last)
	}
	m.Watch(StepVerified, fmt.Sprintf("copied %s, the term and the vote, read all of it back, and found it the same", what))
	return nil
}

// makeRoom removes what earlier migrations have left. It refuses to remove anything else.
func (m *migration) makeRoom(old Store) error {
	left := exists(m.temporary)
	if err := m.clear(); err != nil {
		return err
	}
	path := m.To.Path(m.dir)
	if exists(path) {
		if err := m.refuseNeeded(m.To, old); err != nil {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove the remains of an earlier migration: %w", err)
		}
		left = true
	}
	if left {
		m.Watch(StepCleared, "removed what an earlier migration had left")
	}
	return SyncDir(m.dir)
}

// refuseNeeded returns ErrInTheWay unless the store of spare, which the manifest does not
// name, is complete and not ahead of current: a migration can have left nothing else.
func (m *migration) refuseNeeded(spare Backend, current Store) error {
	path := spare.Path(m.dir)
	store, err := spare.Inspect(m.dir, m.Logger)
	if errors.Is(err, ErrNoStore) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %s can't be read, so it is not known to be superfluous; move it away if it is: %w", ErrInTheWay, path, err)
	}
	theirs, err := reachOf(store)
	if err := errors.Join(err, store.Close()); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInTheWay, path, err)
	}
	ours, err := reachOf(current)
	if err != nil {
		return err
	}
	if ours = ours.withSnapshots(m.dir); ours.before(theirs) {
		return fmt.Errorf("%w: %s has more (%s) than what %s names (%s); find out which of them is the right one, and move the other away",
			ErrInTheWay, path, theirs, manifestName, ours)
	}
	return nil
}

// copyInto writes all of old into a new store in the temporary folder.
func (m *migration) copyInto(ctx context.Context, old Store) (err error) {
	made, err := m.To.Open(m.temporary, m.Logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	if err := copyStableState(old, made); err != nil {
		return err
	}
	return copyLog(ctx, old, made, func(first, last uint64) {
		m.Watch(StepCopied, fmt.Sprintf("copied entries %d to %d", first, last))
	})
}

// place gives the new store its name.
func (m *migration) place() error {
	if err := os.Rename(m.To.Path(m.temporary), m.To.Path(m.dir)); err != nil {
		return err
	}
	if err := SyncDir(m.dir); err != nil {
		return err
	}
	m.Watch(StepPlaced, fmt.Sprintf("%s is complete", storeName(m.To.Name)))
	return nil
}

// finish finishes a migration that was stopped after the manifest was replaced.
func (m *migration) finish() error {
	if !exists(m.temporary) && !exists(m.From.Path(m.dir)) {
		return fmt.Errorf("%w: %s uses %q already: there is nothing to do", ErrOtherBackend, m.dir, m.To.Name)
	}
	current, err := m.To.Inspect(m.dir, m.Logger)
	if err != nil {
		return fmt.Errorf("read the %s log store: %w", m.To.Name, err)
	}
	defer func() { _ = current.Close() }() // it was only read
	if exists(m.From.Path(m.dir)) {
		if err := m.refuseNeeded(m.From, current); err != nil {
			return err
		}
	}
	// It may have been stopped before the new manifest was durable. If that were lost, the
	// old manifest would name a store that is gone.
	if err := SyncDir(m.dir); err != nil {
		return err
	}
	m.Watch(StepSwitched, fmt.Sprintf("%s says %s already: an earlier migration got that far", manifestName, m.To.Name))
	return m.removeOld()
}

// removeOld renames the old store before it removes it, so that an incomplete store never
// has the name of one.
func (m *migration) removeOld() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("the directory uses %s now, but the remains of %s could not be removed: %w", m.To.Name, m.From.Name, err)
		}
	}()
	if err := errors.Join(m.clear(), os.Mkdir(m.temporary, 0o700)); err != nil {
		return err
	}
	old := m.From.Path(m.dir)
	err = os.Rename(old, m.From.Path(m.temporary))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := SyncDir(m.dir); err != nil {
		return err
	}
	m.Watch(StepSetAside, fmt.Sprintf("%s is no longer used", storeName(m.From.Name)))
	if err := m.clear(); err != nil {
		return err
	}
	if err := SyncDir(m.dir); err != nil {
		return err
	}
	m.Watch(StepRemoved, fmt.Sprintf("removed %s", storeName(m.From.Name)))
	return nil
}

// Leftovers returns the paths that interrupted migrations have left in the directory: the
// temporary folder, and stores of these backends other than the one in use.
func (d *Directory) Leftovers(backends []Backend) (paths []string) {
	if path := filepath.Join(d.path, migrationName); exists(path) {
		paths = append(paths, path)
	}
	for _, b := range backends {
		if b.Name != d.Backend() && exists(b.Path(d.path)) {
			paths = append(paths, b.Path(d.path))
		}
	}
	return paths
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// syncTree makes everything in path durable, whoever wrote it.
func syncTree(path string) error {
	return filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() || entry.Type().IsRegular():
			return SyncDir(path) // works for files too
		}
		return nil
	})
}
