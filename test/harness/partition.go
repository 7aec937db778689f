package harness

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// CutOff blocks all raft traffic between one running instance and the others until
// Heal. All connections to an instance go through its one proxy, so their origin is
// found by looking up the process that owns the other end.
func (c *Cluster) CutOff(one *Instance) {
	c.t.Helper()
	if _, err := os.Stat("/proc/net/tcp"); err != nil {
		c.t.Skipf("the owner of a connection can only be found on Linux: %v", err)
	}
	one.Proxy.Cut()
	for _, other := range c.Instances {
		if other != one {
			other.Proxy.cutFrom(one.Pid())
		}
	}
}

// Heal undoes CutOff and all Cut and Hold of the proxies.
func (c *Cluster) Heal() {
	for _, i := range c.Instances {
		i.Proxy.Heal()
	}
}

// owns reports whether a process has a TCP socket with the given local port.
func owns(pid, port int) bool {
	sockets, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is valid
	inodes := inodesOf(port)
	for _, path := range sockets {
		if target, err := os.Readlink(path); err == nil && inodes[target] {
			return true
		}
	}
	return false
}

// inodesOf returns the sockets with the given local port, in the form that links in /proc have.
func inodesOf(port int) map[string]bool {
	inodes := map[string]bool{}
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.Open(path)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(table); lines.Scan(); {
			// sl, local_address, rem_address, st, queues, tr, retrnsmt, uid, timeout, inode
			fields := strings.Fields(lines.Text())
			if len(fields) > 9 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+fields[9]+"]"] = true
			}
		}
		_ = table.Close()
	}
	return inodes
}

// dialledBy reports whether a process owns the other end of conn.
func dialledBy(pid int, conn net.Conn) bool {
	_, text, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return false
	}
	port, err := strconv.Atoi(text)
	return err == nil && owns(pid, port)
}
