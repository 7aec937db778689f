package consensus

import (
	"bytes"
	"errors"
	"reflect"

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
func imageOf(r *domain.Registry) snapshotImage {
	return snapshotImage{View: r.View(), ClusterID: "cluster", Applied: 77, OpenTerm: 5}
}

func snapshotOf(t domaintest.T, im snapshotImage) []byte {
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

var errDisk = errors.New("the disk is broken")

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errDisk }
func (failing) Write([]byte) (int, error) { return 0, errDisk }
