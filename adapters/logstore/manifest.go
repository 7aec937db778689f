package logstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// manifestFormat is the newest manifest format that this build reads, and the one that it
// writes. It is the format of the whole directory. Format 2 added what keeps an instance
// that lost its state from voting, and checksums of the term and the vote; a build that
// does not know these must not start in the directory.
const manifestFormat = 2

// manifest is what instance.json says. Its format is pinned by a golden file.
type manifest struct {
	Format    int    `json:"format"`
	RaftID    string `json:"raft_id"`
	Backend   string `json:"backend"`
	ClusterID string `json:"cluster_id"`
}

// readManifest returns fs.ErrNotExist when there is none.
func readManifest(dir string) (manifest, error) {
	path := filepath.Join(dir, manifestName)
	raw, err := os.ReadFile(path)
	if err != nil {
		return manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	// The format comes first and alone: a newer one may have fields, or types of
	// them, that this build would take for damage.
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return manifest{}, damaged(path, err)
	}
	if version.Format > manifestFormat {
		return manifest{}, fmt.Errorf("%w: %s has format %d, this build reads up to %d: run the version that wrote it, or a newer one",
			ErrNewerFormat, path, version.Format, manifestFormat)
	}
	var m manifest
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return manifest{}, damaged(path, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return manifest{}, damaged(path, errors.New("something follows the manifest"))
	}
	switch {
	case m.Format < 1:
		return manifest{}, damaged(path, errors.New("no format"))
	case m.RaftID == "":
		return manifest{}, damaged(path, errors.New("no raft_id"))
	case m.Backend == "":
		return manifest{}, damaged(path, errors.New("no backend"))
	}
	return m, nil
}

func damaged(path string, why error) error {
	return fmt.Errorf("%w: %s: %w: nothing was changed; restore the file from a copy, or let the instance join anew with an empty directory",
		ErrDamagedManifest, path, why)
}

// writeManifest replaces the manifest atomically: after a crash either the old or the new
// one is there, and maybe a temporary file, which the next write truncates.
func writeManifest(dir string, m manifest) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if err := ReplaceFile(dir, manifestName, append(raw, '\n')); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// ReplaceFile atomically and durably replaces the small file name in dir: after a crash
// either the old or the new one is there.
func ReplaceFile(dir, name string, content []byte) error {
	temporary := filepath.Join(dir, name+temporarySuffix)
	if err := writeDurably(temporary, content); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, name)); err != nil {
		return err
	}
	// Without this the rename itself may not outlive a power cut.
	return SyncDir(dir)
}

func writeDurably(path string, content []byte) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(content); err != nil {
		return err
	}
	return file.Sync()
}

// SyncDir makes the list of files in a directory durable.
func SyncDir(path string) (err error) {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}

// makeDir creates path and its missing parents, and makes each durable in its parent. It
// does so with the last one that exists, too: a process that was killed may have made that,
// and not have come to the sync. Only that one is in doubt, since each is durable before
// anything is made in it.
func makeDir(path string) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return syncAbove(path)
	case err == nil:
		return fmt.Errorf("%s is not a directory", path)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDir(parent); err != nil {
		return err
	}
	err = os.Mkdir(path, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	made := err == nil
	if err = SyncDir(parent); err != nil && made {
		// The next start must not take it for one that somebody else made: see syncAbove.
		return errors.Join(err, os.Remove(path))
	}
	return err
}

// syncAbove makes the name of a directory durable, unless somebody else must have made it,
// because this process could not have: it may not write in the parent or not open it, or the
// parent is on a file system that can't sync directories.
func syncAbove(path string) error {
	const reading, writing = 4, 2 // R_OK and W_OK, which package syscall does not name
	parent := filepath.Dir(path)
	if syscall.Access(parent, reading|writing) != nil {
		return nil
	}
	// Access does not consult every security module: under AppArmor only the opening fails.
	if err := SyncDir(parent); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}
