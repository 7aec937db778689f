package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Keep atomically and durably replaces the small file name in the directory: after a crash
// either the old or the new content is there. The caller gives the content its meaning, and
// must detect damage to it.
func (d *Directory) Keep(name string, content []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.mayWrite(); err != nil {
		return fmt.Errorf("write %s in %s: %w", name, d.path, err)
	}
	return ReplaceFile(d.path, name, content)
}

// Kept returns what Keep wrote last; false if there is nothing.
func (d *Directory) Kept(name string) (content []byte, found bool, err error) {
	content, err = os.ReadFile(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}

// Drop durably removes what Keep wrote.
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
