package wal

import (
	"encoding/hex"
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// golden never changes: every later build must read it.
const golden = "testdata/format1.hex"

func goldenSegment(t *testing.T) []byte {
	t.Helper()
	const id, first, size, salt = 3, 41, 512, 0x0123456789abcdef
	raw := headerOf(id, size, salt)
	var b batch
	for at, add := range []func() error{
		func() error { return b.addValue("CurrentTerm", []byte{0, 0, 0, 0, 0, 0, 0, 9}) },
		func() error {
			return errors.Join(
				b.addEntry(&raft.Log{Index: 300, Term: 9, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("more"), AppendedAt: time.Unix(1_700_000_000, 123).UTC()}),
				b.addEntry(&raft.Log{Index: 301, Term: 9, Type: raft.LogNoop}),
			)
		},
		func() error { return b.addRemoval(1, 300) },
		b.addClosed,
	} {
		if err := add(); err != nil {
			t.Fatal(err)
		}
		b.seal(seedOf(salt), uint64(first+at)<<tryBits)
		raw = append(raw, b.raw...)
		b.reset()
	}
	return append(raw, make([]byte, size-len(raw))...)
}

func TestTheFormatDoesNotChange(t *testing.T) {
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if got := goldenSegment(t); string(got) != string(want) {
		t.Errorf("a segment is written as\n%s", hex.Dump(got))
	}
	s, err := parseHeader(want)
	if err != nil {
		t.Fatal(err)
	}
	r := &replay{values: map[string][]byte{}, next: image{s, want}.firstBatch()}
	if err := r.readSegment(image{s, want}, math.MaxUint64); err != nil {
		t.Fatal(err)
	}
	first, last := r.places.bounds()
	if s.id != 3 || first != 301 || last != 301 || r.next != 45 || !r.closed || len(r.torn) != 0 || string(r.values["CurrentTerm"]) != "\x00\x00\x00\x00\x00\x00\x00\x09" {
		t.Errorf("read are %+v, from %d to %d", r, first, last)
	}
}

func TestARecordOfALaterBuildIsRefusedButNoDamage(t *testing.T) {
	const salt = 5
	raw := headerOf(1, 512, salt)
	var b batch
	b.begin(99)
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	b.seal(seedOf(salt), 1<<tryBits)
	raw = append(raw, b.raw...)
	raw = append(raw, make([]byte, 512-len(raw))...)
	s, err := parseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	r := &replay{values: map[string][]byte{}, next: 1}
	err = r.readSegment(image{s, raw}, math.MaxUint64)
	if err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("error = %v, want one about a newer format that is no damage", err)
	}
}

// A record ends with filler even if its payload ends with zeros: zeros after a record mean
// that nothing follows.
func TestARecordNeverEndsWithAZero(t *testing.T) {
	for payload, size := range map[int]int{1: 24, 7: 24, 8: 32, 15: 32, 16: 40, 17: 40} {
		var b batch
		b.begin(kindEntry)
		b.raw = append(b.raw, make([]byte, payload-1)...)
		if err := b.end(); err != nil {
			t.Fatal(err)
		}
		b.seal(7, 1<<tryBits)
		if got, ok := readRecord(b.raw, 7); len(b.raw) != size || b.raw[size-1] != filler || !ok || got.size != size || len(got.payload) != payload {
			t.Errorf("a payload of %d bytes is written in %d, %x, and read as %+v, %t", payload, len(b.raw), b.raw, got, ok)
		}
	}
}

func TestARecordWithoutAPayloadIsInvalid(t *testing.T) {
	var b batch
	b.begin(kindEntry)
	b.raw = b.raw[:recordHeader]
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	b.seal(7, 1<<tryBits)
	if got, ok := readRecord(b.raw, 7); ok {
		t.Errorf("readRecord = %+v, want none", got)
	}
}
