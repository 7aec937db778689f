package consensus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// harm changes the directory that r reports on.
type harm struct {
	t   *testing.T
	dir string
	r   Report
}

// store opens the log store and applies change to it.
func (h harm) store(change func(logstore.Store) error) {
	h.t.Helper()
	store, err := bolt.Open(h.dir, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := errors.Join(change(store), store.Close()); err != nil {
		h.t.Fatal(err)
	}
}

// entry applies change to one entry of the log.
func (h harm) entry(index uint64, change func(*raft.Log)) {
	h.t.Helper()
	h.store(func(s logstore.Store) error {
		var entry raft.Log
		if err := s.GetLog(index, &entry); err != nil {
			return err
		}
		change(&entry)
		return s.StoreLog(&entry)
	})
}

// snapshot returns a path in the folder of a snapshot, 0 being the newest.
func (h harm) snapshot(which int, file string) string {
	return filepath.Join(h.dir, "snapshots", h.r.Snapshots[which].ID, file)
}

// flip inverts bits of one byte of a file. A negative position counts from the end.
func (h harm) flip(path string, at int) {
	h.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	raw[(at+len(raw))%len(raw)] ^= 0x20
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h harm) truncate(path string, size int64) {
	h.t.Helper()
	if err := os.Truncate(path, size); err != nil {
		h.t.Fatal(err)
	}
}

func (h harm) remove(path string) {
	h.t.Helper()
	if err := os.RemoveAll(path); err != nil {
		h.t.Fatal(err)
	}
}

func (h harm) replace(path, old, with string) {
	h.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	if !strings.Contains(string(raw), old) {
		h.t.Fatalf("no %q in %s: %s", old, path, raw)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(raw), old, with)), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// description is what a snapshot says about itself.
type description struct {
	raft.SnapshotMeta
	CRC []byte
}

// describe changes a snapshot's description, and gives it a correct checksum.
func (h harm) describe(which int, change func(*description)) {
	h.t.Helper()
	h.rewrite(h.snapshot(which, "meta.json"), change)
}

func (h harm) rewrite(path string, change func(*description)) {
	h.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	var d description
	if err := json.Unmarshal(raw, &d); err != nil {
		h.t.Fatal(err)
	}
	change(&d)
	raw, err = json.Marshal(d)
	if err != nil {
		h.t.Fatal(err)
	}
	body := bytes.TrimSuffix(raw, []byte("}"))
	sealed := fmt.Appendf(body, `,"Checksum":"%08x"}`+"\n", crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, sealed, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// ofNewerVersion makes a snapshot look as if a newer build wrote it.
func (h harm) ofNewerVersion(which int) {
	h.t.Helper()
	path := h.snapshot(which, "state.bin")
	state, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	state[len("NMDSNAP")]++
	if err := os.WriteFile(path, state, 0o600); err != nil {
		h.t.Fatal(err)
	}
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	sum.Write(state) // never fails
	h.describe(which, func(f *description) { f.CRC = sum.Sum(nil) })
}

// endBefore makes a snapshot claim that it ends one entry earlier.
func (h harm) endBefore(which int) {
	h.t.Helper()
	var named string
	h.describe(which, func(f *description) {
		f.Index--
		f.ID = fmt.Sprintf("%d-%d-%d", f.Term, f.Index, time.Now().UnixMilli())
		named = f.ID
	})
	if err := os.Rename(h.snapshot(which, ""), filepath.Join(h.dir, "snapshots", named)); err != nil {
		h.t.Fatal(err)
	}
}

// sealedWithByte returns an entry or a snapshot with one byte changed, and a correct checksum.
func sealedWithByte(data []byte, at int, value byte) []byte {
	body := bytes.Clone(data[:len(data)-crc32.Size])
	body[at] = value
	return binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// unknownEntry returns an intact entry of a kind that no build knows yet.
func unknownEntry() []byte { return sealedWithByte(codec.EncodeEntry(domain.Revive{ID: "a"}), 1, 99) }

// rawEntries returns all entries of the log.
func (h harm) rawEntries() (entries []*raft.Log) {
	h.t.Helper()
	h.store(func(s logstore.Store) error {
		for index := h.r.FirstIndex; index <= h.r.LastIndex; index++ {
			entry := new(raft.Log)
			if err := s.GetLog(index, entry); err != nil {
				return err
			}
			entries = append(entries, entry)
		}
		return nil
	})
	return entries
}

// rename stores an entry under another index.
func (h harm) rename(entries []*raft.Log, from, to uint64) {
	h.t.Helper()
	h.store(func(s logstore.Store) error {
		entry := *entries[from-h.r.FirstIndex]
		entry.Index = to
		return errors.Join(s.DeleteRange(from, from), s.StoreLog(&entry))
	})
}
