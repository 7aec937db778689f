package bolt_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
)

// written returns the bytes of a store with a log of several pages.
func written(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	store := open(t, dir)
	var logs []*raft.Log
	for index := uint64(1); index <= 2000; index++ {
		logs = append(logs, &raft.Log{Index: index, Data: bytes.Repeat([]byte{byte(index)}, 100)})
	}
	logs = append(logs, &raft.Log{Index: 2001, Data: make([]byte, 100_000)})
	if err := store.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "log.bolt"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOpenOfADamagedFile(t *testing.T) {
	const page = 4096
	intact := written(t)
	tests := map[string]func(raw []byte) []byte{
		"cut off in the middle":                func(raw []byte) []byte { return raw[:len(raw)/4] },
		"cut off in the middle of a page":      func(raw []byte) []byte { return raw[:len(raw)/4+100] },
		"cut off after the meta pages":         func(raw []byte) []byte { return raw[:2*page] },
		"cut off in the first page":            func(raw []byte) []byte { return raw[:100] },
		"both meta pages overwritten":          func(raw []byte) []byte { copy(raw, make([]byte, 2*page)); return raw },
		"all but the meta pages zeroed":        func(raw []byte) []byte { clear(raw[2*page:]); return raw },
		"all but the meta pages made of ones":  func(raw []byte) []byte { fill(raw[2*page:], 0xff); return raw },
		"all but the meta pages made of nines": func(raw []byte) []byte { fill(raw[2*page:], 9); return raw },
		"all made of zeros":                    func(raw []byte) []byte { clear(raw); return raw },
		"nothing left but zeros, too many":     func([]byte) []byte { return make([]byte, 8*page) },
		"another file":                         func([]byte) []byte { return []byte(strings.Repeat("not a database\n", 2000)) },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log.bolt")
			raw := damage(bytes.Clone(intact))
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			store, err := bolt.Open(dir, nil)
			if err == nil {
				_ = store.Close()
				t.Fatal("Open = nil, want an error")
			}
			if !errors.Is(err, bolt.ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("error = %q, want ErrDamaged that names the file", err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, raw) {
				t.Errorf("the damaged file was changed (%v)", err)
			}
		})
	}
}

// Other tools, which compact a file for example, write the list of free pages into it. It is
// not needed here, but bbolt panics over one that is damaged.
func TestADamagedListOfFreePagesIsAnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log.bolt")
	if err := os.WriteFile(path, written(t), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(*bbolt.Tx) error { return nil })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page, kindOfList = 4096, 0x10
	found := false
	for at := 2 * page; at < len(raw); at += page {
		if raw[at+8] == kindOfList && raw[at+9] == 0 {
			raw[at+8], found = 1, true
		}
	}
	if !found {
		t.Fatal("there is no list of free pages")
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open(dir, nil)
	if err == nil {
		_ = store.Close()
	}
	if !errors.Is(err, bolt.ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open = %v, want ErrDamaged that names the file", err)
	}
}

func fill(raw []byte, with byte) {
	for at := range raw {
		raw[at] = with
	}
}

func TestAFileThatWasCreatedButNeverWrittenIsANewStore(t *testing.T) {
	for name, raw := range neverWritten {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "log.bolt"), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			store := open(t, dir)
			if last, err := store.LastIndex(); err != nil || last != 0 {
				t.Errorf("LastIndex = %d, %v", last, err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What a crash may leave of bbolt's first write to a file, which is one of four pages.
var neverWritten = map[string][]byte{
	"nothing of it is there":         nil,
	"all of it is zeros":             make([]byte, 4*os.Getpagesize()),
	"it is cut off, and it is zeros": make([]byte, os.Getpagesize()),
}

// Only thus is a file of zeros that is no larger than the first write known to have held
// nothing: not even the buckets.
func TestAFileOutgrowsTheFirstWriteToItBeforeItIsOpen(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer func() { _ = store.Close() }()
	info, err := os.Stat(filepath.Join(dir, "log.bolt"))
	if err != nil {
		t.Fatal(err)
	}
	if least := int64(4 * os.Getpagesize()); info.Size() <= least {
		t.Errorf("size of the file = %d bytes, want more than the first write of %d", info.Size(), least)
	}
}

func TestALockedFileIsNotReportedAsDamaged(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	_, err := bolt.Open(dir, nil)
	if err == nil || strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("second Open = %v, want a timeout", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is wrong with one page, Open returns: a panic in one of bbolt's own
// goroutines, or a signal, would end this test's process.
func TestOneOverwrittenPageNeverKillsTheProcess(t *testing.T) {
	const page = 4096
	intact := written(t)
	rapid.Check(t, func(r *rapid.T) {
		raw := bytes.Clone(intact)
		at := rapid.IntRange(0, len(raw)/page-1).Draw(r, "page") * page
		from := at + rapid.IntRange(0, 64).Draw(r, "offset")
		garbage := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(r, "garbage")
		copy(raw[from:], garbage)
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			r.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "log.bolt"), raw, 0o600); err != nil {
			r.Fatal(err)
		}
		store, err := bolt.Open(dir, nil)
		if err != nil {
			return // refused, as it should be if the page is in use
		}
		if err := store.Close(); err != nil {
			r.Fatal(err)
		}
	})
}
