package demux_test

import (
	"net"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// BenchmarkHandOver is the time from a dial until the other side has the
// connection from Accept; a plain listener is what it is to be compared with.
func BenchmarkHandOver(b *testing.B) {
	b.Run("plain listener", func(b *testing.B) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer listener.Close()
		address := listener.Addr().String()
		handOver(b, listener, func() (net.Conn, error) { return net.Dial("tcp", address) })
	})
	for _, bench := range []struct {
		name   string
		config demux.LaneConfig
	}{
		{"lane", demux.LaneConfig{}},
		{"lane with MaxOpen", demux.LaneConfig{MaxOpen: 256}},
		{"lane with handshake", demux.LaneConfig{Handshake: func(conn net.Conn) (net.Conn, error) { return conn, nil }}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			port, lane := open(b, demux.Config{}, lanes{'a': bench.config})
			address := port.Addr().String()
			handOver(b, lane['a'], func() (net.Conn, error) { return demux.Dial(b.Context(), address, 'a') })
		})
	}
}

func handOver(b *testing.B, listener net.Listener, dial func() (net.Conn, error)) {
	b.ReportAllocs()
	for b.Loop() {
		client, err := dial()
		if err != nil {
			b.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			b.Fatal(err)
		}
		// A reset leaves no port in TIME_WAIT, of which there are only so many.
		_ = client.(*net.TCPConn).SetLinger(0)
		_ = client.Close()
		_ = server.Close()
	}
}
