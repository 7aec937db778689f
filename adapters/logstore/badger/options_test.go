package badger

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/hashicorp/raft"
)

// An earlier build had larger memtables, and may have been killed.
func TestALargerMemtableOfAnEarlierBuildIsRecovered(t *testing.T) {
	before, after := t.TempDir(), t.TempDir()
	path := filepath.Join(before, dirName)
	db, err := badger.Open(optionsFor(path, slog.New(slog.DiscardHandler)).WithMemTableSize(4 << 20))
	if err != nil {
		t.Fatal(err)
	}
	earlier := &store{db: db, path: path, logger: slog.New(slog.DiscardHandler), stop: make(chan struct{}), stopped: make(chan struct{})}
	close(earlier.stopped)
	const last = 60
	for index := uint64(1); index <= last; index++ {
		if err := earlier.StoreLog(&raft.Log{Index: index, Term: 1, Data: make([]byte, 60<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(after, dirName), os.DirFS(path)); err != nil {
		t.Fatal(err)
	}
	if err := earlier.Close(); err != nil {
		t.Fatal(err)
	}
	now, err := Open(after, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := now.Close(); err != nil {
			t.Error(err)
		}
	}()
	if reached, err := now.LastIndex(); err != nil || reached != last {
		t.Errorf("LastIndex = %d, %v, want %d", reached, err, last)
	}
}
