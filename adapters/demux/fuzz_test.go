package demux_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// Any bytes of a stranger either belong to a lane, which then gets all of them but the
// first, or close the connection.
func FuzzFirstBytes(f *testing.F) {
	const word = "open sesame"
	port, lane := open(f, demux.Config{}, lanes{'a': {}, 'h': {Handshake: greeting(word), MaxOpen: 100}})
	address := port.Addr().String()
	type arrival struct {
		first byte
		conn  net.Conn
		data  []byte
		err   error
	}
	arrivals := make(chan arrival)
	for first, lane := range lane {
		go func() {
			for {
				conn, err := lane.Accept()
				if err != nil {
					return
				}
				data, err := io.ReadAll(conn)
				arrivals <- arrival{first, conn, data, err}
			}
		}()
	}

	f.Fuzz(func(t *testing.T, data []byte, split bool) {
		var want *arrival
		switch {
		case bytes.HasPrefix(data, []byte("a")):
			want = &arrival{first: 'a', data: data[1:]}
		case bytes.HasPrefix(data, []byte("h"+word)):
			want = &arrival{first: 'h', data: data[1+len(word):]}
		}
		conn := connect(t, address)
		if split && len(data) > 0 { // the first byte comes in a packet of its own
			_, _ = conn.Write(data[:1])
			_, _ = conn.Write(data[1:])
		} else {
			_, _ = conn.Write(data)
		}
		_ = conn.CloseWrite()

		if want == nil {
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(make([]byte, 1))
			if n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the connection is not closed: read %d bytes, %v", n, err)
			}
			return
		}
		select {
		case got := <-arrivals:
			if got.err != nil || got.first != want.first || !bytes.Equal(got.data, want.data) {
				t.Errorf("lane %q got %q, %v, want lane %q and %q", got.first, got.data, got.err, want.first, want.data)
			}
			// A reset leaves no port in TIME_WAIT.
			_ = conn.SetLinger(0)
			_ = conn.Close()
			_ = got.conn.Close()
		case <-time.After(patience):
			t.Fatal("the connection reached no lane")
		}
	})
}
