package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

// portsOf returns the local TCP ports of a process.
func portsOf(pid int) map[string]bool {
	sockets := map[string]bool{}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is valid
	for _, path := range files {
		if target, err := os.Readlink(path); err == nil {
			sockets[target] = true
		}
	}
	ports := map[string]bool{}
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.Open(path)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(table); lines.Scan(); {
			if bytes.Contains(lines.Bytes(), timeWait) {
				continue
			}
			// sl, local_address, rem_address, st, queues, tr, retrnsmt, uid, timeout, inode
			fields := strings.Fields(lines.Text())
			if len(fields) > 9 && sockets["socket:["+fields[9]+"]"] {
				_, port, _ := strings.Cut(fields[1], ":")
				ports[port] = true
			}
		}
		_ = table.Close()
	}
	return ports
}

// timeWait marks a closed connection in /proc/net/tcp, which belongs to no process. There
// may be tens of thousands of them.
var timeWait = []byte(" 06 ")

// farPort returns the port of the other end of conn, as /proc/net/tcp has it.
func farPort(conn net.Conn) string {
	return fmt.Sprintf("%04X", conn.RemoteAddr().(*net.TCPAddr).Port)
}
