package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
)

// choices are the values of settings that have only a few.
var choices = map[string][]string{
	"storage_backend": Backends,
	"log_level":       logLevels,
	"log_format":      logFormats,
}

// minSecret keeps a secret from being guessed by whoever can reach the port.
const minSecret = 16

// fault is an error about settings.
type fault struct {
	settings []string // the names of the settings that are wrong, alone or together
	err      error
}

type faults []fault

func (f *faults) add(err error, settings ...string) {
	if err != nil {
		*f = append(*f, fault{settings, err})
	}
}

// complete fills in the settings whose default depends on others, or on the host.
func (c *Config) complete(given settings) {
	if _, ok := given["raft_id"]; !ok {
		// If the host has no name the id stays empty, and check reports that.
		c.RaftID, _ = os.Hostname()
	}
	_, c.StorageBackendGiven = given["storage_backend"]
	for i, address := range c.Join {
		c.Join[i] = strings.TrimSpace(address)
	}
	c.RaftAdvertisedAddress = advertised(c.RaftAdvertisedAddress, c.RaftBindAddress)
	c.ApplicationAdvertisedAddress = advertised(c.ApplicationAdvertisedAddress, c.ApplicationBindAddress)
}

// advertised returns address, or by default the bind address, unless its port is yet to be
// chosen.
func advertised(address, bind string) string {
	if _, port, err := net.SplitHostPort(bind); address == "" && err == nil && port != "0" {
		return bind
	}
	return address
}

// check returns all faults of a complete Config, and reads the secret.
func (c *Config) check(given settings) faults {
	var found faults
	found.add(plain(domain.CheckID("it", c.RaftID)), "raft_id")
	if c.RaftDir == "" {
		found.add(errors.New("must not be empty"), "raft_dir")
	}
	checkAddresses(&found, "raft", c.RaftBindAddress, c.RaftAdvertisedAddress)
	checkAddresses(&found, "application", c.ApplicationBindAddress, c.ApplicationAdvertisedAddress)
	switch {
	case c.RaftBindAddress == c.ApplicationBindAddress && !strings.HasSuffix(c.RaftBindAddress, ":0"):
		found.add(fmt.Errorf("can't both be %q", c.RaftBindAddress), "raft_bind_address", "application_bind_address")
	case c.RaftAdvertisedAddress == c.ApplicationAdvertisedAddress && c.RaftAdvertisedAddress != "":
		// Clients would be redirected to the raft port, or instances dial the
		// application API.
		found.add(fmt.Errorf("can't both be %q", c.RaftAdvertisedAddress), "raft_advertised_address", "application_advertised_address")
	}
	for _, address := range c.Join {
		found.add(plain(domain.CheckAdvertisedAddress("it", address)), "join")
	}
	if len(c.Join) > 0 && c.BootstrapRaftCluster {
		found.add(errors.New("an instance starts a cluster or joins one, not both"), "bootstrap_raft_cluster", "join")
	}
	if err := c.Timing.Validate(); err != nil {
		found.add(errors.New(strings.ReplaceAll(err.Error(), "\n", "; ")),
			"raft_heartbeat_timeout", "raft_election_timeout", "raft_snapshot_threshold", "raft_snapshot_interval")
	}
	if c.ShutdownTimeout <= 0 {
		found.add(fmt.Errorf("must be more than nothing: %v", c.ShutdownTimeout), "shutdown_timeout")
	}
	if named, ok := given[secretFlag]; ok {
		found.add(c.readSecret(named.values[len(named.values)-1]), secretFlag)
	}
	return found
}

// plain drops the name that package domain gives the value: the message already begins
// with where the value was given.
func plain(err error) error {
	if invalid, ok := errors.AsType[*domain.InvalidError](err); ok {
		return errors.New(invalid.Reason)
	}
	return err
}

func checkAddresses(found *faults, which, bind, advertised string) {
	if err := checkBind(bind); err != nil {
		found.add(err, which+"_bind_address")
		return
	}
	host, _, _ := net.SplitHostPort(bind)
	everywhere := host == "" || net.ParseIP(host).IsUnspecified()
	switch {
	case everywhere && (advertised == "" || advertised == bind):
		found.add(fmt.Errorf("must be set to an address that others can reach, because %q is every interface", bind),
			which+"_advertised_address")
	case advertised != "":
		found.add(plain(domain.CheckAdvertisedAddress("it", advertised)), which+"_advertised_address")
	}
}

// checkBind is domain.CheckAddress for an address to listen on: the host may be empty
// (every interface), and the port 0 (any free one).
func checkBind(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("must be host:port, with an IPv6 host in brackets: %q", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("needs a port from 0 to 65535: %q", address)
	}
	// Not its own error: that would name port 1, which nobody gave.
	if host != "" && domain.CheckAddress("it", net.JoinHostPort(host, "1")) != nil {
		return fmt.Errorf("has a host that is neither a name nor an IP address: %q", address)
	}
	return nil
}

// readSecret reads the secret from the file at path, without the last newline, which most
// editors add. An empty path is an error: it often comes from a variable that was never
// set, and to run without a secret then would let everybody in.
func (c *Config) readSecret(path string) error {
	if path == "" {
		return errors.New("must not be empty; for a cluster without a secret, leave it out")
	}
	content, err := readBounded(path)
	if err != nil {
		return err
	}
	secret := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	if len(secret) < minSecret {
		return fmt.Errorf("%s holds %d bytes; a secret has at least %d", path, len(secret), minSecret)
	}
	c.Secret = secret
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		c.Warnings = append(c.Warnings, fmt.Sprintf(
			"every user of this machine can use %s: chmod 600 it", path))
	}
	return nil
}
