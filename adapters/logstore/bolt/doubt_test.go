package bolt

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// transaction returns the number of the last transaction in the file.
func (s *store) transaction(t *testing.T) (last uint64) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	for page := range 2 {
		meta := raw[page*os.Getpagesize()+pageHeaderSize:]
		last = max(last, binary.NativeEndian.Uint64(meta[metaTxOffset:]))
	}
	return last
}

// The meta page that bbolt uses after a failed write may not be on the disk. An empty
// transaction writes it again before a page that bbolt takes for free is used.
func TestPagesOfTheDurableMetaPageAreNotOverwritten(t *testing.T) {
	s := openStore(t)
	for name, write := range map[string]func() error{
		"Set":         func() error { return s.Set(logstore.TermKey, []byte("1")) },
		"SetUint64":   func() error { return s.SetUint64(logstore.TermKey, 1) },
		"StoreLog":    func() error { return s.StoreLog(&raft.Log{Index: 1}) },
		"StoreLogs":   func() error { return s.StoreLogs([]*raft.Log{{Index: 1}}) },
		"DeleteRange": func() error { return s.DeleteRange(1, 1) },
	} {
		takes := func(transactions uint64) {
			t.Helper()
			before := s.transaction(t)
			if err := write(); err != nil {
				t.Fatal(err)
			}
			if took := s.transaction(t) - before; took != transactions {
				t.Errorf("transactions of %s = %d, want %d", name, took, transactions)
			}
		}
		takes(1)
		if err := s.Set(nil, nil); err == nil {
			t.Fatal("Set with an empty key = nil, want a write that fails")
		}
		takes(2)
		takes(1)
	}
}
