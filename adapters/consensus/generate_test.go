package consensus

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

func anyPromotion() *rapid.Generator[promotion] {
	return rapid.Custom(func(t *rapid.T) promotion {
		return promotion{ID: rapid.StringN(1, 20, -1).Draw(t, "id"), Settled: rapid.Bool().Draw(t, "settled")}
	})
}

func mustEqual(t domaintest.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// imageOf returns the image of a registry; the rest of it is fixed.
func imageOf(r *domain.Registry) fsmSnapshot {
	return fsmSnapshot{view: r.View(), clusterID: "cluster", applied: 77, openTerm: 5}
}

func snapshotOf(t domaintest.T, im fsmSnapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeSnapshot(&b, im); err != nil {
		t.Fatalf("writeSnapshot = %v, want success", err)
	}
	return b.Bytes()
}

func restoredFrom(t domaintest.T, snapshot []byte) decodedSnapshot {
	t.Helper()
	read, err := readSnapshot(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatalf("readSnapshot = %v, want success", err)
	}
	return read
}

// resealed returns data with a correct checksum at its end.
func resealed(data []byte) []byte {
	if len(data) < checksumSize {
		return data
	}
	return appendChecksum(bytes.Clone(data[:len(data)-checksumSize]))
}

// eachDamage calls check with every copy of data in which one byte is changed, in one bit or
// in all, and with every copy that ends early.
func eachDamage(t *testing.T, data []byte, check func(t *testing.T, damaged []byte)) {
	t.Helper()
	for at := range data {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			damaged := bytes.Clone(data)
			damaged[at] ^= flip
			check(t, damaged)
		}
		check(t, data[:at])
	}
}
