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
		t.Skip("skipped: nobody tells here how much is free")
	}
	dir := t.TempDir()
	const more = math.MaxUint64 / 2 // than any disk has
	if err := logstore.CheckRoom(dir, 0, 0); err != nil {
		t.Errorf("nothing is needed: %v", err)
	}
	if err := logstore.CheckRoom(dir, more, more); err != nil {
		t.Errorf("what is reused is enough: %v", err)
	}
	err := logstore.CheckRoom(dir, 0, more)
	if refused := new(logstore.NoRoomError); !errors.As(err, &refused) || refused.Needed != more || !strings.Contains(err.Error(), dir) {
		t.Errorf("more is needed than there is: %v", err)
	}
}
