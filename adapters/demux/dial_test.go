package demux_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

func TestDialNamesTheAddressThatItCannotReach(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	_, err = demux.Dial(t.Context(), address, 'a')
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), address) {
		t.Errorf("Dial = %v, want ECONNREFUSED naming %s", err, address)
	}
	if _, err := demux.Dial(t.Context(), "nowhere", 'a'); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("Dial = %v, want an error that names the address", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	port, _ := open(t, demux.Config{}, lanes{'a': {}})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := demux.Dial(canceled, port.Addr().String(), 'a'); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial with a canceled context = %v, want %v", err, context.Canceled)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := demux.Dial(late, port.Addr().String(), 'a'); !isTimeout(err) {
		t.Errorf("Dial beyond its deadline = %v, want a timeout", err)
	}
}

func isTimeout(err error) bool {
	fault, ok := errors.AsType[net.Error](err)
	return ok && fault.Timeout()
}

func TestAConnectionOutlivesTheContextOfItsDial(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {}})
	ctx, cancel := context.WithCancel(t.Context())
	client, err := demux.Dial(ctx, port.Addr().String(), 'a')
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cancel()
	talk(t, client, accept(t, lane['a']))
	if _, ok := client.(*net.TCPConn); !ok {
		t.Errorf("Dial gave a %T, want a TCPConn", client)
	}
}
