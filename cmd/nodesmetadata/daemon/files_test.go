package daemon_test

import (
	"math"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func TestClientsLeaveFilesToTheRest(t *testing.T) {
	for files, want := range map[int64]int{
		0: 2, 3: 2, 100: 50, 1024: 512, 2400: 1200, 4096: 2896, math.MaxInt64: 1<<30 - 1200,
	} {
		if got := daemon.ConnectionsOf(files); got != want {
			t.Errorf("connections with %d files = %d, want %d", files, got, want)
		}
	}
}
