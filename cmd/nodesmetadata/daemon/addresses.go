package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

// The range of ports to choose from for port 0, and how many to try. It lies below the
// range from which the operating system takes ephemeral ports, so a chosen port most
// likely stays free until it is bound.
const (
	lowestChoice  = 20000
	highestChoice = 32000
	choices       = 100
)

// choosePorts replaces port 0 by a free port before anything is bound, because the parts of
// an instance need the advertised addresses when they are made. The two ports differ.
func choosePorts(c config.Config) (config.Config, error) {
	addresses := []struct{ bind, advertised *string }{
		{&c.RaftBindAddress, &c.RaftAdvertisedAddress},
		{&c.ApplicationBindAddress, &c.ApplicationAdvertisedAddress},
	}
	taken := map[string]bool{}
	for _, which := range addresses {
		_, port, err := net.SplitHostPort(*which.bind)
		if err != nil {
			return c, fmt.Errorf("bind address %q: %w", *which.bind, err)
		}
		taken[port] = true
	}
	for _, which := range addresses {
		host, port, _ := net.SplitHostPort(*which.bind)
		if port != "0" {
			continue
		}
		port, err := freePort(host, taken)
		if err != nil {
			return c, err
		}
		taken[port] = true
		*which.bind = net.JoinHostPort(host, port)
		if *which.advertised == "" {
			*which.advertised = *which.bind
		}
	}
	return c, nil
}

// freePort returns a port on which nobody listens, and which is not in taken.
func freePort(host string, taken map[string]bool) (string, error) {
	var faults []error
	for _, offset := range rand.Perm(highestChoice - lowestChoice) {
		port := strconv.Itoa(lowestChoice + offset)
		if taken[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err == nil {
			return port, listener.Close()
		}
		if faults = append(faults, err); len(faults) == choices {
			break
		}
	}
	return "", fmt.Errorf("no free port for host %q: %w", host, errors.Join(faults[:min(3, len(faults))]...))
}
