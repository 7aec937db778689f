package badger

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
	earlier, err := newStore(db, path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
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

// No test can cut the power.
func TestEveryTransactionIsSynced(t *testing.T) {
	if !optionsFor(t.TempDir(), slog.New(slog.DiscardHandler)).SyncWrites {
		t.Error("SyncWrites = false, want true")
	}
}

func TestTheLogOfBadgerIsPassedOn(t *testing.T) {
	for name, test := range map[string]struct {
		log  func(bridge)
		want string
	}{
		"an error":                    {func(b bridge) { b.Errorf("%d left\n", 3) }, "level=ERROR msg=\"3 left\"\n"},
		"a warning":                   {func(b bridge) { b.Warningf("%d left\n", 3) }, "level=WARN msg=\"3 left\"\n"},
		"what is about its internals": {func(b bridge) { b.Infof("%d left\n", 3) }, "level=DEBUG msg=\"3 left\"\n"},
		"details":                     {func(b bridge) { b.Debugf("%d left\n", 3) }, "level=DEBUG msg=\"3 left\"\n"},
		"an empty line":               {func(b bridge) { b.Infof("\n") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var logs strings.Builder
			test.log(bridge{slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{
				Level: slog.LevelDebug,
				ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
					if attr.Key == slog.TimeKey {
						return slog.Attr{}
					}
					return attr
				},
			}))})
			if logs.String() != test.want {
				t.Errorf("logs = %q, want %q", &logs, test.want)
			}
		})
	}
}
