package bolt

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

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
	set := func(value uint64, transactions uint64) {
		t.Helper()
		before := s.transaction(t)
		if err := s.SetUint64(logstore.TermKey, value); err != nil {
			t.Fatal(err)
		}
		if took := s.transaction(t) - before; took != transactions {
			t.Errorf("transactions = %d, want %d", took, transactions)
		}
	}
	set(1, 1)
	if err := s.Set(nil, nil); err == nil {
		t.Fatal("Set with an empty key = nil, want a write that fails")
	}
	set(2, 2)
	set(3, 1)
}
