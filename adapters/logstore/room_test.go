package logstore_test

import (
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

func TestRoomCountsFreeAndReusedSpace(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("skipped: the free space is unknown on this platform")
	}
	dir := t.TempDir()
	const more = math.MaxUint64 / 2 // than any disk has
	if err := logstore.CheckRoom(dir, 0, 0); err != nil {
		t.Errorf("room for nothing: error = %v, want none", err)
	}
	if err := logstore.CheckRoom(dir, more, more); err != nil {
		t.Errorf("room that reused space covers: error = %v, want none", err)
	}
	err := logstore.CheckRoom(dir, 0, more)
	if refused := new(logstore.NoRoomError); !errors.As(err, &refused) || refused.Needed != more || !strings.Contains(err.Error(), dir) {
		t.Errorf("room beyond the size of the disk: error = %v, want a NoRoomError for %d bytes in %s", err, uint64(more), dir)
	}
}
