package harness

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Network is a set of hosts, each with its own link to a router that can drop
// packets. Hosts and the router are network namespaces: the kernel removes them
// with the process, however it ends. Host 0 is the test itself.
//
// Packets are dropped silently, as by a broken switch: connections stay open, and
// lost data is retransmitted after Heal.
type Network struct {
	t       testing.TB
	router  *spawner
	hosts   []*spawner // without host 0
	subnet  int
	dropped []string
}

// NewNetwork returns a network of the given number of hosts beside the test, until t
// ends. It skips t, with the reason, where that is not possible.
func NewNetwork(t testing.TB, hosts int) *Network {
	t.Helper()
	n := &Network{t: t}
	switch err := n.open(hosts); {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EPERM), errors.Is(err, exec.ErrNotFound):
		t.Skipf("skipped: network namespaces need Linux, root and ip: %v", err)
	case err != nil:
		t.Fatalf("harness: %v", err)
	}
	return n
}

// Address returns the IP address of a host.
func (n *Network) Address(host int) string { return fmt.Sprintf("198.18.%d.%d", n.subnet, 4*host+2) }

// gateway returns the router's IP address on the link of a host.
func (n *Network) gateway(host int) string { return fmt.Sprintf("198.18.%d.%d", n.subnet, 4*host+1) }

// Drop drops all packets from one host to another. Packets in the other direction pass.
func (n *Network) Drop(from, to int) {
	n.t.Helper()
	rule := fmt.Sprintf("from %s to %s blackhole", n.Address(from), n.Address(to))
	if slices.Contains(n.dropped, rule) {
		return
	}
	n.dropped = append(n.dropped, rule)
	n.must(ip(n.router, "rule add pref 100 "+rule))
}

// Cut drops all packets, in both directions, between the hosts of one group and
// those of the other.
func (n *Network) Cut(one, other []int) {
	n.t.Helper()
	for _, a := range one {
		for _, b := range other {
			n.Drop(a, b)
			n.Drop(b, a)
		}
	}
}

// Heal undoes all calls of Drop and Cut.
func (n *Network) Heal() {
	n.t.Helper()
	for _, rule := range n.dropped {
		n.must(ip(n.router, "rule del pref 100 "+rule))
	}
	n.dropped = nil
}

func (n *Network) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatalf("harness: %v", err)
	}
}

// ip runs commands of ip(8) in the network namespace of a spawner.
func ip(where *spawner, commands ...string) error {
	command := exec.Command("ip", "-batch", "-")
	command.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	return where.do(func() error {
		output, err := command.CombinedOutput()
		if err == nil {
			return nil
		}
		for _, words := range []string{"Operation not permitted", "Operation not supported", "Unknown device type"} {
			if strings.Contains(string(output), words) {
				err = errors.Join(err, errors.ErrUnsupported) // not supported by the kernel, or not permitted in this container
			}
		}
		return fmt.Errorf("ip: %w: %s(%s)", err, output, strings.Join(commands, "; "))
	})
}
