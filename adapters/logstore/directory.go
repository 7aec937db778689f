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

// The files that a claim keeps in the directory.
const (
	lockName     = "instance.lock"
	manifestName = "instance.json"
	// temporarySuffix ends the name of a file that is to replace another.
	temporarySuffix = ".tmp"
)

// Why a directory is not given.
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
	// Volatile are the storage backends that keep nothing on disk: there is nothing
	// that could be converted from or to one.
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

	mu   sync.Mutex // guards all below, and the manifest on disk
	held *os.File   // open and locked; nil once closed
	says manifest
}

// Claim takes the directory at path for owner, creating it (mode 0700) when it
// is missing. It does not wait: a directory that is held is ErrDirectoryInUse.
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
	says, err := settle(path, owner)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	return newDirectory(path, held, says)
}

// newDirectory takes held, also where it fails.
func newDirectory(path string, held *os.File, says manifest) (*Directory, error) {
	lock, err := held.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft directory: %w", err), held.Close())
	}
	return &Directory{path: path, lock: lock, held: held, says: says}, nil
}

// settle reads the manifest, or writes the first one. The caller holds the lock.
func settle(path string, owner Owner) (manifest, error) {
	says, err := readManifest(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := refuseForeign(path); err != nil {
			return manifest{}, err
		}
		says = manifest{Format: manifestFormat, RaftID: owner.RaftID, Backend: owner.Backend}
		return says, writeManifest(path, says)
	}
	switch {
	case err != nil:
		return manifest{}, err
	case says.RaftID != owner.RaftID:
		return manifest{}, fmt.Errorf("%w: %s holds the state of %q, this instance is %q",
			ErrOtherID, path, says.RaftID, owner.RaftID)
	case says.Backend != owner.Backend:
		return manifest{}, fmt.Errorf("%w: %s was written by %q, asked for is %q: start with the former, %s",
			ErrOtherBackend, path, says.Backend, owner.Backend, owner.wayFrom(says.Backend, path))
	}
	if says.Format < manifestFormat {
		says.Format = manifestFormat
		return says, writeManifest(path, says)
	}
	return says, nil
}

// wayFrom says how an instance whose directory another backend wrote comes to its own.
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

// Present returns ErrDirectoryGone unless what was claimed is still at its path: what
// is written to the files that are open is lost with the process. Where the operating system
// does not tell, it is there. It waits for nobody who writes to the directory.
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
	return d.says.ClusterID
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
	case id == d.says.ClusterID:
		return nil
	case d.says.ClusterID != "":
		return fmt.Errorf("%w: %s holds the state of cluster %q, not of %q",
			ErrOtherCluster, d.path, d.says.ClusterID, id)
	}
	says := d.says
	says.ClusterID = id
	return d.say(says)
}

// ForgetCluster undoes SetClusterID, durably. The caller knows that the directory
// holds no state of that cluster. After Close it returns ErrClosed.
func (d *Directory) ForgetCluster() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return fmt.Errorf("forget the cluster id of %s: %w", d.path, err)
	}
	says := d.says
	says.ClusterID = ""
	return d.say(says)
}

// say replaces the manifest, durably. After an error nobody knows which one is there. It
// needs mu.
func (d *Directory) say(says manifest) error {
	if err := writeManifest(d.path, says); err != nil {
		return err
	}
	d.says = says
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
