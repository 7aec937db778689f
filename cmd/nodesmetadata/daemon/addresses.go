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
// advertises is told to its parts when they are made.
func choosePorts(c config.Config) (config.Config, error) {
	for _, which := range []struct{ bind, advertised *string }{
		{&c.RaftBindAddress, &c.RaftAdvertisedAddress},
		{&c.ApplicationBindAddress, &c.ApplicationAdvertisedAddress},
	} {
		host, port, err := net.SplitHostPort(*which.bind)
		if err != nil {
			return c, fmt.Errorf("bind address %q: %w", *which.bind, err)
		}
		if port != "0" {
			continue
		}
		if *which.bind, err = freeAddress(host); err != nil {
			return c, err
		}
		if *which.advertised == "" {
			*which.advertised = *which.bind
		}
	}
	return c, nil
}

func freeAddress(host string) (string, error) {
	var faults []error
	for range choices {
		port := lowestChoice + rand.N(highestChoice-lowestChoice)
		address := net.JoinHostPort(host, strconv.Itoa(port))
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
		faults = append(faults, err)
	}
	return "", fmt.Errorf("no free port for host %q: %w", host, errors.Join(faults[:3]...))
}
