package daemon_test

import (
	"io"
	"net"
	"strings"
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

// Behind a translation of addresses the other side of a port is known beforehand.
func TestAnAdvertisedAddressIsKeptWhenThePortIsChosen(t *testing.T) {
	d, err := daemon.New(chosen(t, "--raft_advertised_address=raft.example:1", "--application_advertised_address=app.example:2"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	c := d.Config()
	if c.RaftAdvertisedAddress != "raft.example:1" || c.ApplicationAdvertisedAddress != "app.example:2" {
		t.Errorf("advertised addresses = %q and %q, want those that were given", c.RaftAdvertisedAddress, c.ApplicationAdvertisedAddress)
	}
	for _, address := range []string{c.RaftBindAddress, c.ApplicationBindAddress} {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "0" {
			t.Errorf("bind address = %q, want one with a port", address)
		}
	}
}

func TestAHostWithoutAFreePortIsNamedWithAFewReasons(t *testing.T) {
	const host = "192.0.2.1" // of no machine
	_, err := daemon.FreePort(host, nil)
	if err == nil || !strings.Contains(err.Error(), host) || strings.Count(err.Error(), "\n") > 2 {
		t.Errorf("FreePort = %v, want an error of at most three lines that names %s", err, host)
	}
}
