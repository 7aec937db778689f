package daemon

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

// The ports among which one is chosen where port 0 is asked for. The operating
// system takes its own choices, and the ports of outgoing connections, from a
// range above, so that a port from here stays free until it is bound.
const (
	lowestChoice  = 20000
	highestChoice = 32000
	choices       = 100
)

// choosePorts replaces port 0, before anything is bound: what an instance
// advertises is told to its parts when they are made. It chooses no port that the
// other address has.
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

// freePort is one that nobody listens on, and none of those that are taken.
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
