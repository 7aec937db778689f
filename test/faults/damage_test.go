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

// tear leaves in the files of an instance, which was killed, what a machine leaves
// there that loses power while it writes: beyond what was acknowledged there is
// the beginning of a write and nothing that makes sense.
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
		f.t.Fatalf("%s has no files that can be torn", i.ID)
	}
	rewrite(f.t, logs[len(logs)-1], func(raw []byte) []byte { return tearBehind(raw, noise) })
}

// boltTxid is where in a meta page the number of its transaction stands.
const boltTxid = 64

// tearBolt has the next transaction torn: it would have overwritten the older of
// the first two pages, the metas, and used pages beyond the end.
func tearBolt(raw, noise []byte) []byte {
	page, older := os.Getpagesize(), 0
	if binary.NativeEndian.Uint64(raw[page+boltTxid:]) < binary.NativeEndian.Uint64(raw[boltTxid:]) {
		older = page
	}
	copy(raw[older:], noise)
	return append(raw, noise...)
}

// tearBehind has the next record of a write-ahead log torn: it follows on the last byte
// that is not zero.
func tearBehind(raw, noise []byte) []byte {
	end := len(bytes.TrimRight(raw, "\x00"))
	// A checksum may end with zeros, which are none of the noise's business.
	copy(raw[min(end+8, len(raw)):], noise)
	return raw
}

// files gives those below a directory with names like pattern, in order.
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

// fill leaves no room on the disks of instances.
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
