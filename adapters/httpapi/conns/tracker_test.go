package conns_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
)

// only is a listener of one connection.
type only chan net.Conn

// Accept implements net.Listener.
func (o only) Accept() (net.Conn, error) {
	if conn, open := <-o; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (o only) Close() error {
	close(o)
	return nil
}

// Addr implements net.Listener.
func (o only) Addr() net.Addr { return &net.UnixAddr{} }

func TestTheRestOfABodyHasItsGraceOnceTheServerCloses(t *testing.T) {
	errLate := errors.New("late")
	for name, test := range map[string]struct {
		rest string
		err  error
		took time.Duration
	}{
		"it comes":         {rest: "56789", took: conns.ReadGrace / 2},
		"it does not come": {err: errLate, took: conns.ReadGrace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracker := conns.New(conns.Config{
					MaxPending: 4, PendingGrace: pendingGrace, Refused: func() {}, Displaced: func() {}, LateBody: errLate, Logger: slog.New(slog.DiscardHandler),
				})
				read := make(chan error, 1)
				server := &http.Server{
					Handler: tracker.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
						_, err := io.ReadAll(r.Body)
						if finished := r.Body.(*conns.Body).IsFinished(); finished != (err == nil) {
							t.Errorf("IsFinished = %v when the body ended with %v", finished, err)
						}
						read <- err
					})),
					ConnContext: tracker.ConnContext,
					ConnState:   tracker.ConnState,
				}
				listener := make(only, 1)
				served := make(chan error)
				go func() { served <- server.Serve(listener) }()
				client, conn := net.Pipe()
				listener <- conn
				if _, err := io.WriteString(client, "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n01234"); err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = io.Copy(io.Discard, client) }()
				synctest.Wait()
				if bodies, _ := tracker.Unfinished(); bodies != 1 {
					t.Errorf("unfinished bodies = %d, want 1", bodies)
				}
				began := time.Now()
				tracker.BeginShutdown(t.Context())
				if test.rest != "" {
					<-time.After(test.took)
					if _, err := io.WriteString(client, test.rest); err != nil {
						t.Error(err)
					}
				}
				if err := <-read; !errors.Is(err, test.err) || time.Since(began) != test.took {
					t.Errorf("the body ended with %v after %v, want %v after %v", err, time.Since(began), test.err, test.took)
				}
				if err := server.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if err := <-served; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
				synctest.Wait() // ConnState may hear of a closed connection after Shutdown has returned
				if bodies, _ := tracker.Unfinished(); bodies != 0 {
					t.Errorf("unfinished bodies after Shutdown = %d, want none", bodies)
				}
			})
		})
	}
}
