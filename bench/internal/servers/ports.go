package servers

import (
	"fmt"
	"net"
	"sync/atomic"
)

// next is the next port to try, below the range of ephemeral ports: an outgoing
// connection could otherwise take the port of a server that is down for a moment.
var next atomic.Int32

func init() { next.Store(15_000) }

// address returns an address on loopback at which nothing listens.
func address() (string, error) {
	for {
		port := next.Add(1)
		if port > 32_000 {
			return "", fmt.Errorf("no port is left below %d", port)
		}
		a := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", a); err == nil {
			return a, l.Close()
		}
	}
}

// addresses returns n such addresses.
func addresses(n int) ([]string, error) {
	all := make([]string, n)
	for i := range all {
		var err error
		if all[i], err = address(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
