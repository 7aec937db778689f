package daemon_test

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

// FreePort must know the other address, because nothing listens there yet.
func TestAPortIsNotChosenForBothAddresses(t *testing.T) {
	const host = "127.0.0.1"
	free, err := daemon.FreePort(host, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken := daemon.Choices()
	delete(taken, free)
	if got, err := daemon.FreePort(host, taken); got != free || err != nil {
		t.Errorf("FreePort = %q, %v, want %q", got, err, free)
	}
}
