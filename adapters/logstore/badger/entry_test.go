package badger

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// goldenLogs are the entries in testdata/heads-v1.hex, one per line.
var goldenLogs = []raft.Log{
	{Index: 1},
	{Index: 2, Term: 3, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("ext"),
		AppendedAt: time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)},
	{Index: 1 << 63, Term: 1<<64 - 1, Type: 255, Data: []byte{0, 0xff}, AppendedAt: time.Unix(-1, 1).UTC()},
}

func TestTheFormatOfHeadsDoesNotChange(t *testing.T) {
	raw, err := os.ReadFile("testdata/heads-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(raw))
	if len(lines) != len(goldenLogs) {
		t.Fatalf("golden lines = %d, want %d", len(lines), len(goldenLogs))
	}
	for at, line := range lines {
		log := goldenLogs[at]
		if got := hex.EncodeToString(encodeHead(&log, uint32(at), payloadOf(&log))); got != line {
			t.Errorf("entry %d is written as\n%s, was\n%s", at, got, line)
		}
		value, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		h, err := decodeHead(log.Index, value)
		if err != nil || h.generation != uint32(at) {
			t.Fatalf("decodeHead = generation %d, %v, want success", h.generation, err)
		}
		got, err := h.entry(h.payload)
		if err != nil || !same(got, log) {
			t.Errorf("entry %d = %+v, %v, want it as it was written", at, got, err)
		}
	}
}

func TestKeysAreInTheOrderOfIndexes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		low := rapid.Uint64Range(0, 1<<64-2).Draw(r, "low")
		high := rapid.Uint64Range(low+1, 1<<64-1).Draw(r, "high")
		part := partKey(low, rapid.Uint32().Draw(r, "generation"), rapid.Uint32().Draw(r, "part"))
		if bytes.Compare(headKey(low), part) >= 0 || bytes.Compare(part, headKey(high)) >= 0 {
			r.Fatal("a part does not lie between its head and the next")
		}
		if indexOf(part) != low || isHead(part) || !isHead(headKey(low)) {
			r.Fatal("a key is not what it was made for")
		}
	})
}

// A crash in the middle of a large entry leaves them.
func TestPartsWithoutAHeadAreNoEntry(t *testing.T) {
	dir := t.TempDir()
	opened, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := opened.StoreLogs([]*raft.Log{{Index: 10}, {Index: 11}}); err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{9, 12} {
		if err := opened.(*store).put(partKey(index, 1, 1), []byte("part")); err != nil {
			t.Fatal(err)
		}
	}
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	if opened, err = Open(dir, nil); err != nil {
		t.Fatal(err)
	}
	first, err := opened.FirstIndex()
	last, errLast := opened.LastIndex()
	if err := errors.Join(err, errLast, opened.Close()); err != nil || first != 10 || last != 11 {
		t.Errorf("bounds of the log = %d and %d (%v), want 10 and 11", first, last, err)
	}
}

func TestDecodeHeadRefusesInvalidHeads(t *testing.T) {
	tests := map[string][]byte{
		"no bytes":          {},
		"only a format":     {entryFormat},
		"a truncated head":  encodeHead(&raft.Log{Term: 1 << 40, Data: []byte("data")}, 0, nil)[:9],
		"a newer format":    append([]byte{entryFormat + 1}, make([]byte, 20)...),
		"a number too long": append([]byte{entryFormat, 0}, bytes.Repeat([]byte{0xff}, 30)...),
	}
	for name, value := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := decodeHead(1, value); !errors.Is(err, errEntry) {
				t.Fatalf("decodeHead = %v, want %v", err, errEntry)
			}
		})
	}
}

func FuzzDecodeHead(f *testing.F) {
	for at := range goldenLogs {
		f.Add(encodeHead(&goldenLogs[at], 1, payloadOf(&goldenLogs[at])))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		h, err := decodeHead(1, value)
		if err != nil {
			return
		}
		log, err := h.entry(h.payload)
		if err != nil {
			return
		}
		again, err := decodeHead(1, encodeHead(&log, h.generation, payloadOf(&log)))
		if err != nil {
			t.Fatal(err)
		}
		if log2, err := again.entry(again.payload); err != nil || !same(log, log2) {
			t.Fatalf("%+v became %+v, %v", log, log2, err)
		}
	})
}

func same(a, b raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}
