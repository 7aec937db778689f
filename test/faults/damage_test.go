package faults

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// tear changes the files of a killed instance as a power failure during a write
// would: the acknowledged data is followed by the beginning of a write and noise.
func (f *field) tear(i *harness.Instance) {
	f.t.Helper()
	f.inject()
	noise := make([]byte, 500)
	for n := range noise {
		noise[n] = byte(1 + f.random.IntN(255))
	}
	if logs := files(f.t, i.Directory, "*.bolt"); len(logs) > 0 {
		rewrite(f.t, logs[0], func(raw []byte) []byte { return tearBolt(raw, noise) })
		return
	}
	if logs := files(f.t, i.Directory, "*.wal"); len(logs) > 0 {
		rewrite(f.t, logs[len(logs)-1], func(raw []byte) []byte { return tearBehind(raw, noise) })
		return
	}
	logs := files(f.t, i.Directory, "*.mem")
	if len(logs) == 0 {
		f.t.Fatalf("%s has no log files to tear", i.ID)
	}
	rewrite(f.t, logs[len(logs)-1], func(raw []byte) []byte { return tearBehind(raw, noise) })
}

// boltTxid is the offset of the transaction id in a meta page of bbolt.
const boltTxid = 64

// tearBolt simulates a torn next transaction, which would have overwritten the
// older of the two meta pages (the first two pages) and used pages beyond the end.
func tearBolt(raw, noise []byte) []byte {
	page, older := os.Getpagesize(), 0
	if binary.NativeEndian.Uint64(raw[page+boltTxid:]) < binary.NativeEndian.Uint64(raw[boltTxid:]) {
		older = page
	}
	copy(raw[older:], noise)
	return append(raw, noise...)
}

// tearBehind simulates a torn next record of a write-ahead log. The record would
// begin after the last byte that is not zero.
func tearBehind(raw, noise []byte) []byte {
	end := len(bytes.TrimRight(raw, "\x00"))
	// A checksum may end with zeros, which the noise must not overwrite.
	copy(raw[min(end+8, len(raw)):], noise)
	return raw
}

// files returns the files below a directory whose names match pattern, in order.
func files(t testing.TB, directory, pattern string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if matches, _ := filepath.Match(pattern, filepath.Base(path)); err == nil && matches && !entry.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

func rewrite(t testing.TB, path string, change func(raw []byte) []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(raw), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fill uses up the space on the disks of instances.
func (f *field) fill(instances ...*harness.Instance) {
	f.t.Helper()
	f.inject()
	harness.FillDisks(instances...)
}

// free undoes fill.
func (f *field) free(instances ...*harness.Instance) {
	f.t.Helper()
	for _, i := range instances {
		i.FreeDisk()
	}
}
