package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// The names of the files that a claim keeps in the directory.
const (
	lockName     = "instance.lock"
	manifestName = "instance.json"
	// temporarySuffix ends the name of a file that is to replace another.
	temporarySuffix = ".tmp"
)

// Why a directory can't be claimed, or used.
var (
	// ErrDirectoryInUse: another process, or another claim of this one, holds it.
	ErrDirectoryInUse = errors.New("raft directory is in use by another instance")
	// ErrOtherID: it belongs to an instance with another raft id.
	ErrOtherID = errors.New("raft directory belongs to another raft id")
	// ErrOtherBackend: another storage backend wrote it.
	ErrOtherBackend = errors.New("raft directory was written by another storage backend")
	// ErrOtherCluster: it belongs to another raft cluster.
	ErrOtherCluster = errors.New("raft directory belongs to another cluster")
	// ErrNewerFormat: a later version of the program wrote it.
	ErrNewerFormat = errors.New("raft directory has a newer format")
	// ErrDamagedManifest: its manifest can't be read; it is left as it is.
	ErrDamagedManifest = errors.New("manifest of the raft directory is damaged")
	// ErrDirectoryGone: what was claimed is not at its path any more.
	ErrDirectoryGone = errors.New("raft directory was removed, or another one is in its place")
	// ErrForeignDirectory: it has no manifest but holds raft state under our names.
	ErrForeignDirectory = errors.New("raft directory holds raft state but no manifest")
)

// Owner says who claims a directory. RaftID and Backend are required.
type Owner struct {
	RaftID  string // id of the instance in its raft cluster
	Backend string // storage backend that is about to be opened in the directory
	// Volatile are the storage backends that keep nothing on disk, so that nothing can be
	// converted from or to them.
	Volatile []string
}

// Validate reports every missing field at once.
func (o Owner) Validate() error {
	var faults []error
	if o.RaftID == "" {
		faults = append(faults, errors.New("owner of a raft directory: no raft id"))
	}
	if o.Backend == "" {
		faults = append(faults, errors.New("owner of a raft directory: no storage backend"))
	}
	return errors.Join(faults...)
}

// Directory is a claim on a raft directory: as long as it is held, nobody else
// can claim it. Its methods are safe for concurrent use; SetClusterID and Close
// block on the disk.
type Directory struct {
	path     string
	lock     os.FileInfo // of the file that is locked
	readOnly bool        // what is in it must not be changed through this claim

	mu       sync.Mutex // guards all below, and the manifest on disk
	held     *os.File   // open and locked; nil once closed
	manifest manifest
}

// Claim takes the directory at path for owner, creating it (mode 0700) when it
// is missing. It makes the name of the directory, and the names in it, durable, whoever made
// them. It does not wait: a directory that is held is ErrDirectoryInUse.
//
// The first claim writes down the owner in a manifest; every later one must come
// from the same raft id (else ErrOtherID) with the same backend (else
// ErrOtherBackend). A manifest that is damaged or of a newer format is refused
// and never overwritten. A directory without a manifest is taken, whatever else
// lies in it (a mount point has a lost+found, an operator a note), unless that
// is raft state under our names ("log.*", "snapshots"): then the manifest was
// lost, and to write a new one would be to guess whose state it is
// (ErrForeignDirectory).
//
// A claim that fails holds nothing. The caller closes one that succeeds, after
// the store inside.
func Claim(path string, owner Owner) (*Directory, error) {
	if err := owner.Validate(); err != nil {
		return nil, err
	}
	// Absolute, so that the claim goes on meaning the same place if the process
	// changes its working directory.
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("raft directory: %w", err)
	}
	if err := makeDir(path); err != nil {
		return nil, fmt.Errorf("create raft directory: %w", err)
	}
	held, err := lock(path)
	if err != nil {
		return nil, err
	}
	content, err := ensureManifest(path, owner)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return newDirectory(path, held, content)
}

// newDirectory takes over held, and closes it if it fails.
func newDirectory(path string, held *os.File, content manifest) (*Directory, error) {
	lock, err := held.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft directory: %w", err), held.Close())
	}
	return &Directory{path: path, lock: lock, held: held, manifest: content}, nil
}

// ensureManifest reads and checks the manifest, or writes the first one, and makes the names
// of all files in the directory durable. The caller holds the lock.
func ensureManifest(path string, owner Owner) (manifest, error) {
	content, err := readManifest(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := refuseForeign(path); err != nil {
			return manifest{}, err
		}
		content = manifest{Format: manifestFormat, RaftID: owner.RaftID, Backend: owner.Backend}
		return content, writeManifest(path, content)
	}
	switch {
	case err != nil:
		return manifest{}, err
	case content.RaftID != owner.RaftID:
		return manifest{}, fmt.Errorf("%w: %s holds the state of %q, this instance is %q",
			ErrOtherID, path, content.RaftID, owner.RaftID)
	case content.Backend != owner.Backend:
		return manifest{}, fmt.Errorf("%w: %s was written by %q, asked for is %q: start with the former, %s",
			ErrOtherBackend, path, content.Backend, owner.Backend, owner.wayFrom(content.Backend, path))
	}
	if content.Format < manifestFormat {
		content.Format = manifestFormat
		return content, writeManifest(path, content)
	}
	// The manifest, and the notes beside it, may have been renamed into place by a process
	// that was killed before it synced the directory. What they say must not be taken back
	// by a power cut once it was acted upon, even if the backend keeps nothing.
	return content, SyncDir(path)
}

// wayFrom says how an operator gets from a directory that another backend wrote to the
// backend of o.
func (o Owner) wayFrom(wrote, path string) string {
	for _, name := range o.Volatile {
		if name == wrote || name == o.Backend {
			return fmt.Sprintf("or with an empty directory, to join the cluster anew: %q keeps nothing on disk, so there is nothing to convert", name)
		}
	}
	return fmt.Sprintf("or convert it with `nodesmetadata storage migrate --from %s --to %s --raft_dir %s`", wrote, o.Backend, shellWord(path))
}

func refuseForeign(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("look into raft directory: %w", err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name == SnapshotsFolder || strings.HasPrefix(name, storePrefix) {
			return fmt.Errorf("%w: %s: restore its %s, or use an empty directory",
				ErrForeignDirectory, filepath.Join(path, name), manifestName)
		}
	}
	return nil
}

// Present returns ErrDirectoryGone unless the claimed directory is still at its path: if
// not, everything written to open files is lost when the process ends. If the operating
// system can't tell, the directory counts as present. Present does not wait for writes.
func (d *Directory) Present() error {
	there, err := os.Stat(filepath.Join(d.path, lockName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(d.lock, there) {
		return fmt.Errorf("%w: %s", ErrDirectoryGone, d.path)
	}
	return nil
}

// Path is where the directory is, as an absolute path.
func (d *Directory) Path() string { return d.path }

// ClusterID is the id of the raft cluster that the state in the directory
// belongs to, empty as long as none was set.
func (d *Directory) ClusterID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.manifest.ClusterID
}

// SetClusterID writes down, durably, which raft cluster the directory belongs
// to. That is for life, or until ForgetCluster: the same id again changes nothing,
// another one is ErrOtherCluster. After Close it returns ErrClosed.
func (d *Directory) SetClusterID(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return fmt.Errorf("set cluster id of %s: %w", d.path, err)
	}
	switch {
	case id == "":
		return fmt.Errorf("set cluster id of %s: it is empty", d.path)
	case id == d.manifest.ClusterID:
		return nil
	case d.manifest.ClusterID != "":
		return fmt.Errorf("%w: %s holds the state of cluster %q, not of %q",
			ErrOtherCluster, d.path, d.manifest.ClusterID, id)
	}
	content := d.manifest
	content.ClusterID = id
	return d.replaceManifest(content)
}

// ForgetCluster undoes SetClusterID, durably. The caller knows that the directory
// holds no state of that cluster. After Close it returns ErrClosed.
func (d *Directory) ForgetCluster() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return fmt.Errorf("forget the cluster id of %s: %w", d.path, err)
	}
	content := d.manifest
	content.ClusterID = ""
	return d.replaceManifest(content)
}

// replaceManifest replaces the manifest, durably. After an error either the old or the new
// one may be there. The caller holds mu.
func (d *Directory) replaceManifest(content manifest) error {
	if err := writeManifest(d.path, content); err != nil {
		return err
	}
	d.manifest = content
	return nil
}

// Close gives the directory back. Close the store inside first. A second call
// does nothing and returns nil.
func (d *Directory) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held == nil {
		return nil
	}
	err := d.held.Close()
	d.held = nil
	return err
}

// shellWord writes text so that a shell takes it for one word.
func shellWord(text string) string {
	if text != "" && strings.Trim(text, plainCharacters) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

const plainCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%,="
