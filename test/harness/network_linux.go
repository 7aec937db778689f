package harness

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// subnets is the number of subnets in 198.18.0.0/16, which is reserved for network tests.
const subnets = 256

func (n *Network) open(hosts int) error {
	n.t.Cleanup(n.close)
	router, err := newNamespace()
	if err != nil {
		return err
	}
	n.router = router
	if err := router.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
		return err
	}
	if err := n.plugIn(router.thread); err != nil {
		return err
	}
	for host := 1; host <= hosts; host++ {
		namespace, err := newNamespace()
		if err != nil {
			return err
		}
		n.hosts = append(n.hosts, namespace)
		if err := ip(n.router, n.link("host"+strconv.Itoa(host), "eth0", namespace.thread), n.side("host"+strconv.Itoa(host), n.gateway(host)),
			"link set host"+strconv.Itoa(host)+" up"); err != nil {
			return err
		}
		if err := ip(namespace, "link set lo up", n.side("eth0", n.Address(host)), "link set eth0 up",
			"route add default via "+n.gateway(host)); err != nil {
			return err
		}
	}
	return nil
}

// plugIn makes the link of host 0. The link's name claims the subnet for this process.
func (n *Network) plugIn(router int) error {
	for n.subnet = range subnets {
		err := ip(shared.children, n.link(n.plug(), "host0", router))
		if err != nil && strings.Contains(err.Error(), "File exists") {
			continue // another process has this subnet
		}
		if err != nil {
			return err
		}
		if err := ip(shared.children, n.side(n.plug(), n.Address(0)), "link set "+n.plug()+" up"); err != nil {
			return err
		}
		if err := ip(n.router, n.side("host0", n.gateway(0)), "link set host0 up"); err != nil {
			return err
		}
		return ip(shared.children, fmt.Sprintf("route add 198.18.%d.0/24 via %s", n.subnet, n.gateway(0)))
	}
	return fmt.Errorf("all of %d subnets are in use", subnets)
}

func (n *Network) plug() string { return "nodesmeta" + strconv.Itoa(n.subnet) }

func (n *Network) link(name, peer string, namespace int) string {
	return fmt.Sprintf("link add %s type veth peer name %s netns %d", name, peer, namespace)
}

func (n *Network) side(name, address string) string { return "addr add " + address + "/30 dev " + name }

// close ends the threads of the hosts. The namespaces and all links into them go
// with the threads and their children.
func (n *Network) close() {
	for _, host := range n.hosts {
		host.close()
	}
	if n.router != nil {
		n.router.close()
	}
}

// newNamespace returns a spawner in a network namespace of its own. ip(8) finds the
// namespace by the id of the thread.
func newNamespace() (*spawner, error) {
	namespace := newSpawner()
	err := namespace.do(func() error {
		namespace.thread = syscall.Gettid()
		return syscall.Unshare(syscall.CLONE_NEWNET)
	})
	if err != nil {
		namespace.close()
		return nil, fmt.Errorf("unshare the network: %w", err)
	}
	return namespace, nil
}

// mount mounts a file system of size bytes at directory, visible only to the
// children of the spawner. It goes away with the last of them.
func (s *spawner) mount(directory string, size int) error {
	return s.do(func() error {
		if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mounts: %w", err)
		}
		// Keep the mount out of the namespace that everything else sees.
		if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			return fmt.Errorf("mount a disk at %s: %w", directory, err)
		}
		return nil
	})
}
