package bolt_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/bolt"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

var backend = logstore.Backend{Name: "bolt", Open: bolt.Open, Inspect: bolt.Inspect}

func TestInspect(t *testing.T) { logstoretest.RunInspect(t, backend) }

func TestInspectOfAFileThatWasNeverWritten(t *testing.T) {
	for name, raw := range neverWritten {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(backend.Path(dir), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := bolt.Inspect(dir, nil); !errors.Is(err, logstore.ErrNoStore) {
				t.Errorf("Inspect = %v, want ErrNoStore", err)
			}
			if now, err := os.ReadFile(backend.Path(dir)); err != nil || !bytes.Equal(now, raw) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

// A crash can leave a meta page that is not whole, so an instance starts with it; but only
// an operator knows whether there was a crash.
func TestATornMetaPageIsWarnedOf(t *testing.T) {
	const page = 4096
	for name, test := range map[string]struct {
		later bool // it is of the last write
		flip  int  // in the page
		bit   byte
	}{
		"of the last write":                    {later: true, flip: 30, bit: 0x40},
		"of the last write, with its number":   {later: true, flip: 16 + 48, bit: 0x40},
		"of the last write, as an early one":   {later: true, flip: 16 + 48, bit: 0x08},
		"of the write before":                  {later: false, flip: 30, bit: 0x40},
		"of the last write, with its checksum": {later: true, flip: 16 + 56, bit: 0x40},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store := open(t, dir)
			for index := range uint64(10) {
				if err := store.StoreLog(&raft.Log{Index: index + 1, Data: []byte("x")}); err != nil {
					t.Fatal(err)
				}
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "log.bolt")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// The number of the transaction says which page is later.
			at := 0
			if later := bytes.Compare(raw[page+16+48:][:1], raw[16+48:][:1]) > 0; later == test.later {
				at = page
			}
			raw[at+test.flip] ^= test.bit
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			var warnings strings.Builder
			store, err = bolt.Inspect(dir, slog.New(slog.NewTextHandler(&warnings, nil)))
			if err != nil {
				t.Fatal(err)
			}
			last, err := store.LastIndex()
			if err := errors.Join(err, store.Close()); err != nil {
				t.Fatal(err)
			}
			want := uint64(10)
			if test.later {
				want = 9
			}
			if last != want {
				t.Errorf("LastIndex = %d, want %d", last, want)
			}
			if warned := strings.Contains(warnings.String(), path); warned != test.later {
				t.Errorf("a warning names the file = %v, want %v: %q", warned, test.later, &warnings)
			}
		})
	}
}
