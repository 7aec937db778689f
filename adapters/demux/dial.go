package demux

import (
	"context"
	"fmt"
	"net"
)

// Dial connects to the lane of a Demux at address (host:port). A host name is
// resolved at every call, and its addresses are tried in turn. ctx bounds all of
// it and nothing afterwards: past its deadline the error is a net.Error with
// Timeout. Without a deadline the operating system decides how long a try may
// take. The connection is a *net.TCPConn with keep-alive and without delay. That
// it is open does not yet mean that the other side has, or serves, the lane.
func Dial(ctx context.Context, address string, lane byte) (net.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive} // no delay is Go's default
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("demux: %w", err)
	}
	// Closing is what ends a write; one byte into an empty send buffer does not
	// wait, but nothing has to depend on that.
	unbind := context.AfterFunc(ctx, func() { _ = conn.Close() })
	_, err = conn.Write([]byte{lane})
	if !unbind() {
		return nil, fmt.Errorf("demux: dial %s: %w", address, ctx.Err())
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("demux: dial %s: lane %#02x: %w", address, lane, err)
	}
	return conn, nil
}
