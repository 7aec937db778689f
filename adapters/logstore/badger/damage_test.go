package badger_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

const markerText = "!badger!txn" // in every record that ends a transaction

// crashed returns a directory as a crash leaves it: a copy of the files of an open
// store that holds the entries 1 to 20, each stored by itself.
func crashed(t *testing.T) string {
	t.Helper()
	live := t.TempDir()
	store := open(t, live)
	for index := uint64(1); index <= 20; index++ {
		if err := store.StoreLog(&raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{byte(index)}, 300)}); err != nil {
			t.Fatal(err)
		}
	}
	dir := logstoretest.Image(t, live)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// walOf returns the path of the newest write-ahead log.
func walOf(t *testing.T, dir string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "log.badger", "*.mem"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no write-ahead log in %s (%v)", dir, err)
	}
	return paths[len(paths)-1]
}

// overwrite changes the byte at the offset that where returns.
func overwrite(t *testing.T, path string, where func(raw []byte) int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[where(raw)] ^= 0xff
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// endOf returns the offset at which the last transaction ends.
func endOf(raw []byte) int {
	key := bytes.LastIndex(raw, []byte(markerText))
	return key + int(raw[key-3]) + int(raw[key-2]) + 4 // its key, its value and the checksum
}

// cut truncates a file at the offset that where returns.
func cut(t *testing.T, path string, where func(raw []byte) int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(where(raw))); err != nil {
		t.Fatal(err)
	}
}

// create creates an empty file.
func create(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// nextTo returns a path for a write-ahead log later than wal.
func nextTo(wal string) string { return filepath.Join(filepath.Dir(wal), "00099.mem") }

// dataOf finds the offset of an entry's data.
func dataOf(index byte) func(raw []byte) int {
	return func(raw []byte) int { return bytes.Index(raw, bytes.Repeat([]byte{index}, 100)) }
}

func TestOpenAfterACrash(t *testing.T) {
	tests := map[string]struct {
		damage func(t *testing.T, wal string)
		last   uint64 // 0: refused
	}{
		"an intact log is kept": {
			damage: func(*testing.T, string) {},
			last:   20,
		},
		"a torn last transaction is dropped": {
			damage: func(t *testing.T, wal string) { overwrite(t, wal, dataOf(20)) },
			last:   19,
		},
		"a last transaction without its end is dropped": {
			damage: func(t *testing.T, wal string) {
				overwrite(t, wal, func(raw []byte) int { return bytes.LastIndex(raw, []byte(markerText)) })
			},
			last: 19,
		},
		"a log that badger truncated after its last transaction is kept": {
			damage: func(t *testing.T, wal string) { cut(t, wal, endOf) },
			last:   20,
		},
		"a log truncated in its last transaction is refused": {
			damage: func(t *testing.T, wal string) { cut(t, wal, dataOf(20)) },
		},
		"a log truncated in the middle is refused": {
			damage: func(t *testing.T, wal string) { cut(t, wal, dataOf(10)) },
		},
		"a log truncated behind its transactions is refused": {
			damage: func(t *testing.T, wal string) { cut(t, wal, func(raw []byte) int { return len(raw) - 1 }) },
		},
		"a log that seems to be encrypted is refused": {
			damage: func(t *testing.T, wal string) { overwrite(t, wal, func([]byte) int { return 3 }) },
		},
		"files that were only created are ignored": {
			damage: func(t *testing.T, wal string) { create(t, nextTo(wal)); create(t, filepath.Dir(wal)+"/000077.vlog") },
			last:   20,
		},
		"a log that badger was about to remove is ignored": {
			damage: func(t *testing.T, wal string) {
				if err := os.Rename(wal, nextTo(wal)); err != nil {
					t.Fatal(err)
				}
				create(t, wal)
			},
			last: 20,
		},
		"damage before acknowledged entries is refused": {
			damage: func(t *testing.T, wal string) { overwrite(t, wal, dataOf(10)) },
		},
		"damage in the entry before the last is refused": {
			damage: func(t *testing.T, wal string) { overwrite(t, wal, dataOf(19)) },
		},
		"a zeroed block in the middle is refused": {
			damage: func(t *testing.T, wal string) {
				file, err := os.OpenFile(wal, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := file.WriteAt(make([]byte, 4096), 1024); err != nil {
					t.Fatal(err)
				}
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := crashed(t)
			wal := walOf(t, dir)
			test.damage(t, wal)
			before, err := os.ReadFile(wal)
			if err != nil {
				t.Fatal(err)
			}
			store, err := badger.Open(dir, nil)
			if test.last == 0 {
				wantRefused(t, store, err, wal, before)
				return
			}
			if err != nil {
				t.Fatalf("Open = %v, want success", err)
			}
			wantEntries(t, store, test.last)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func wantRefused(t *testing.T, store io.Closer, err error, wal string, before []byte) {
	t.Helper()
	if err == nil {
		_ = store.Close()
		t.Fatal("Open = nil, want an error")
	}
	if !errors.Is(err, badger.ErrDamaged) || !strings.Contains(err.Error(), wal) {
		t.Errorf("Open = %v, want ErrDamaged naming %s", err, wal)
	}
	if now, err := os.ReadFile(wal); err != nil || !bytes.Equal(now, before) {
		t.Errorf("the damaged file was changed (%v)", err)
	}
}

func wantEntries(t *testing.T, store logstore.Store, last uint64) {
	t.Helper()
	if got, err := store.LastIndex(); err != nil || got != last {
		t.Fatalf("LastIndex = %d, %v, want %d", got, err, last)
	}
	for index := uint64(1); index <= last; index++ {
		var log raft.Log
		if err := store.GetLog(index, &log); err != nil || !bytes.Equal(log.Data, bytes.Repeat([]byte{byte(index)}, 300)) {
			t.Fatalf("GetLog(%d) = %d bytes, %v", index, len(log.Data), err)
		}
	}
}

// badger leaves two goroutines behind when it can't open its files. The process
// ends then, so they do no harm; but this test needs a process of its own.
func TestADamagedTableIsAnErrorWhenOpening(t *testing.T) {
	if _, alone := os.LookupEnv(aloneEnv); !alone {
		binary, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		child := exec.CommandContext(t.Context(), binary, "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), aloneEnv+"=1")
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	store := open(t, dir)
	if err := store.StoreLog(&raft.Log{Index: 1, Data: bytes.Repeat([]byte{1}, 9000)}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil { // writes the table
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "log.badger", "*.sst"))
	if err != nil || len(tables) != 1 {
		t.Fatalf("tables: %v, %v", tables, err)
	}
	overwrite(t, tables[0], dataOf(1))
	store, err = badger.Open(dir, nil)
	if err == nil {
		_ = store.Close()
		t.Fatal("Open = nil, want an error")
	}
	if !strings.Contains(err.Error(), tables[0]) {
		t.Errorf("error = %q, want it to name %s", err, tables[0])
	}
}

func TestALogThatWentMissingAfterACrashIsRefused(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"removed":                  os.Remove,
		"emptied":                  func(path string) error { return os.Truncate(path, 0) },
		"cut off in its header":    func(path string) error { return os.Truncate(path, 10) },
		"cut off after its header": func(path string) error { return os.Truncate(path, 20) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := crashed(t)
			if err := damage(walOf(t, dir)); err != nil {
				t.Fatal(err)
			}
			wantUnopened(t, dir, badger.ErrDamaged, "")
		})
	}
}

// wantUnopened checks that neither Open nor Inspect opens the store in dir, that their error
// is reason and names the file, and that they change nothing.
func wantUnopened(t *testing.T, dir string, reason error, file string) {
	t.Helper()
	before := logstoretest.Tree(t, dir)
	for name, open := range map[string]logstore.Opener{"Open": badger.Open, "Inspect": badger.Inspect} {
		store, err := open(dir, nil)
		if err == nil {
			_ = store.Close()
			t.Fatalf("%s = nil, want an error", name)
		}
		if !errors.Is(err, reason) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s = %v, want %v naming %q", name, err, reason, file)
		}
	}
	if after := logstoretest.Tree(t, dir); after != before {
		t.Errorf("the directory was changed from\n%s\nto\n%s", before, after)
	}
}

// An orderly stop flushes everything to tables, and leaves no write-ahead log.
func TestNoLogAfterAnOrderlyStopIsNoDamage(t *testing.T) {
	dir := crashed(t)
	for range 2 {
		store := open(t, dir)
		wantEntries(t, store, 20)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		if logs, err := filepath.Glob(filepath.Join(dir, "log.badger", "*.mem")); err != nil || len(logs) > 0 {
			t.Fatalf("write-ahead logs after Close = %v, %v, want none", logs, err)
		}
	}
}

// Files that badger itself would refuse with an error of its own are reported as damage.
func TestFilesThatBadgerDoesNotOpenAreRefused(t *testing.T) {
	for _, pattern := range []string{"*.vlog", "KEYREGISTRY"} {
		for name, left := range map[string]func(*testing.T) string{"after a crash": crashed, "after an orderly stop": tabled} {
			t.Run(pattern+" "+name, func(t *testing.T) {
				intact := left(t)
				path := only(t, intact, pattern)
				raw, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for at := range min(len(raw), 40) {
					spoilt := bytes.Clone(raw)
					spoilt[at] ^= 4
					if err := os.WriteFile(path, spoilt, 0o600); err != nil {
						t.Fatal(err)
					}
					store, err := badger.Inspect(intact, nil)
					if err != nil {
						wantUnopened(t, intact, badger.ErrDamagedTables, path)
						continue
					}
					if err := store.Close(); err != nil {
						t.Fatal(err)
					}
					dir := t.TempDir()
					if err := os.CopyFS(dir, os.DirFS(intact)); err != nil {
						t.Fatal(err)
					}
					if store, err = badger.Open(dir, nil); err != nil {
						t.Fatalf("Open with byte %d damaged succeeded first, and failed then: %v", at, err)
					}
					if err := store.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// The write that a crash interrupted is in the newest log: the one with the highest number,
// which may have more digits than the others.
func TestTheNewestLogIsFoundByItsNumber(t *testing.T) {
	dir := crashed(t)
	first := walOf(t, dir)
	raw, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	torn := bytes.Clone(raw)
	torn[bytes.LastIndex(raw, bytes.Repeat([]byte{20}, 50))] ^= 0xff // in the last transaction
	folder := filepath.Dir(first)
	older, newer := filepath.Join(folder, "99999.mem"), filepath.Join(folder, "100000.mem")
	if err := errors.Join(os.Remove(first), os.WriteFile(older, torn, 0o600), os.WriteFile(newer, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	wantUnopened(t, dir, badger.ErrDamaged, older) // that write was complete
	if err := errors.Join(os.WriteFile(older, raw, 0o600), os.WriteFile(newer, torn, 0o600)); err != nil {
		t.Fatal(err)
	}
	store := open(t, dir)
	if last, err := store.LastIndex(); err != nil || last < 19 {
		t.Errorf("LastIndex = %d, %v, want at least 19", last, err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}
