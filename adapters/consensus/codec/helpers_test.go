package codec

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

func mustEqual(t domaintest.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// imageOf returns the image of a registry; the rest of it is fixed.
func imageOf(r *domain.Registry) Snapshot {
	return Snapshot{View: r.View(), ClusterID: "cluster", Applied: 77, OpenTerm: 5}
}

func snapshotOf(t domaintest.T, im Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSnapshot(&b, im); err != nil {
		t.Fatalf("WriteSnapshot = %v, want success", err)
	}
	return b.Bytes()
}

func restoredFrom(t domaintest.T, snapshot []byte) Restored {
	t.Helper()
	read, err := ReadSnapshot(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatalf("ReadSnapshot = %v, want success", err)
	}
	return read
}

var errDisk = errors.New("the disk is broken")

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errDisk }
func (failing) Write([]byte) (int, error) { return 0, errDisk }

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
