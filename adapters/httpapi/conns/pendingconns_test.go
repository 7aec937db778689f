package conns_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
)

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

func TestARequestOnAnEvictedConnectionIsNotCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := conns.NewPendingConns(1)
		late, conn := net.Pipe()
		defer func() { _ = late.Close() }()
		ctx := n.Greet(context.Background(), conn)
		n.MakeRoom() // returns when the grace of the evicted connection is over
		if n.Hear(ctx) {
			t.Error("Hear of a displaced connection = true, want false")
		}
		early, conn := net.Pipe()
		defer func() { _ = early.Close() }()
		ctx = n.Greet(context.Background(), conn)
		if !n.Hear(ctx) {
			t.Error("Hear of a connection within the limit = false, want true")
		}
		n.MakeRoom()
		if !n.Hear(ctx) {
			t.Error("second Hear of a connection = false, want true")
		}
		_ = conn.Close()
	})
}

// The listener may accept another connection while the server closes.
func TestAConnectionAcceptedWhileTheServerClosesIsClosed(t *testing.T) {
	n := conns.NewPendingConns(4)
	n.Close()
	late, conn := net.Pipe()
	defer func() { _ = late.Close() }()
	ctx := n.Greet(context.Background(), conn)
	_ = late.SetReadDeadline(time.Now().Add(patience)) // a pipe supports deadlines
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read of the late connection = %v, want EOF", err)
	}
	if n.Hear(ctx) {
		t.Error("Hear of the late connection = true, want false")
	}
}
