package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Keep writes a small file into the directory, in place of what it held under
// name: after a crash the old content is there or the new one. What it means is
// the caller's business; so is telling whether it is whole.
func (d *Directory) Keep(name string, content []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return fmt.Errorf("write %s in %s: %w", name, d.path, err)
	}
	return ReplaceFile(d.path, name, content)
}

// Kept is what Keep wrote last; false where there is nothing.
func (d *Directory) Kept(name string) (content []byte, found bool, err error) {
	content, err = os.ReadFile(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}

// Drop removes, durably, what Keep wrote.
func (d *Directory) Drop(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return fmt.Errorf("remove %s in %s: %w", name, d.path, err)
	}
	if err := os.Remove(filepath.Join(d.path, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return SyncDir(d.path)
}
