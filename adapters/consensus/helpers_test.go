package consensus

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
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
func imageOf(r *domain.Registry) codec.Snapshot {
	return codec.Snapshot{View: r.View(), ClusterID: "cluster", Applied: 77, OpenTerm: 5}
}

func snapshotOf(t domaintest.T, im codec.Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := codec.WriteSnapshot(&b, im); err != nil {
		t.Fatalf("WriteSnapshot = %v, want success", err)
	}
	return b.Bytes()
}

func restoredFrom(t domaintest.T, snapshot []byte) codec.Restored {
	t.Helper()
	read, err := codec.ReadSnapshot(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatalf("ReadSnapshot = %v, want success", err)
	}
	return read
}

func namesIn(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

var errDisk = errors.New("the disk is broken")

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errDisk }
func (failing) Write([]byte) (int, error) { return 0, errDisk }
