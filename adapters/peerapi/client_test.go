package peerapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// impostor answers every connection on the lane with behave.
func impostor(t *testing.T, behave func(net.Conn)) string {
	t.Helper()
	port, err := demux.New(demux.Config{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	lane, err := port.Lane(peerapi.Lane, demux.LaneConfig{MaxOpen: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := lane.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				behave(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = port.Close()
		running.Wait()
	})
	return port.Addr().String()
}

// says answers a request with raw bytes.
func says(raw string) func(net.Conn) {
	return func(conn net.Conn) {
		question := make([]byte, 4<<10)
		if _, err := conn.Read(question); err == nil {
			_, _ = io.WriteString(conn, raw)
		}
	}
}

func saysJSON(body string) func(net.Conn) {
	return says(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

// floods writes until nobody listens any more.
func floods(beginning, then string) func(net.Conn) {
	return func(conn net.Conn) {
		says(beginning)(conn)
		for {
			if _, err := io.WriteString(conn, then); err != nil {
				return
			}
		}
	}
}

func TestAnInvalidIdentityIsRefused(t *testing.T) {
	const good = `"raft_id":"n1","cluster_id":"","version":"v1"`
	tests := map[string]struct {
		behave func(net.Conn)
		says   string // part of the error
	}{
		"an empty answer":       {says(""), "EOF"},
		"no HTTP":               {says("SSH-2.0-OpenSSH\r\n"), "malformed"},
		"another status":        {says("HTTP/1.1 503 Oops\r\nContent-Length: 0\r\n\r\n"), "status 503"},
		"a redirect":            {says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "status 302"},
		"a truncated body":      {says("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"), "EOF"},
		"a body without end":    {floods("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat(" ", 4096)), "over 1048576 bytes"},
		"a header without end":  {floods("HTTP/1.1 200 OK\r\nX: ", strings.Repeat("x", 4096)), "headers exceeded"},
		"no JSON":               {saysJSON(`hello`), "no instance metadata"},
		"JSON of another type":  {saysJSON(`["n1"]`), "no instance metadata"},
		"an empty object":       {saysJSON(`{}`), "raft_id must not be empty"},
		"data after the object": {saysJSON(`{"application_address":"a:1",` + good + `} {}`), "no instance metadata"},
		"a name twice":          {saysJSON(`{"application_address":"a:1","raft_id":"n0",` + good + `}`), "duplicate"},
		"invalid UTF-8":         {saysJSON("{\"application_address\":\"a\xff:1\"," + good + "}"), "UTF-8"},
		"a number for an id":    {saysJSON(`{"application_address":"a:1","raft_id":7}`), "no instance metadata"},
		"no address":            {saysJSON(`{` + good + `}`), "application_address"},
		"an address without port": {saysJSON(`{"application_address":"a",` + good + `}`),
			"application_address must be host:port"},
		"an address that smuggles a path": {saysJSON(`{"application_address":"a:1/x",` + good + `}`), "application_address"},
		"an address that smuggles a user": {saysJSON(`{"application_address":"u@a:1",` + good + `}`), "application_address"},
		"a wildcard":                      {saysJSON(`{"application_address":"0.0.0.0:1",` + good + `}`), "application_address"},
		"a format below zero":             {saysJSON(`{"application_address":"a:1","raft_id":"n1","format":-1}`), "no instance metadata"},
		"an id of several lines": {saysJSON(`{"application_address":"a:1","raft_id":"n\n1"}`),
			"raft_id may only have"},
		"a version of several lines": {saysJSON(`{"application_address":"a:1","raft_id":"n1","version":"v\r\n1"}`),
			"version has characters"},
		"a version of several words": {saysJSON(`{"application_address":"a:1","raft_id":"n1","version":"v 1"}`),
			"version has characters"},
		"a cluster id that is too long": {saysJSON(`{"application_address":"a:1","raft_id":"n1","cluster_id":"` +
			strings.Repeat("x", 1000) + `"}`), "cluster_id is over"},
		"a version that is too long": {saysJSON(`{"application_address":"a:1","raft_id":"n1","version":"` +
			strings.Repeat("x", 129) + `"}`), "version is over 128 bytes"},
		"a process that is too long": {saysJSON(`{"application_address":"a:1","raft_id":"n1","process":"` +
			strings.Repeat("x", 129) + `"}`), "process is over 128 bytes"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			address := impostor(t, test.behave)
			got, err := client(t).Identify(within(t, 5*time.Second), address)
			if err == nil {
				t.Fatalf("Identify = %+v, want an error", got)
			}
			if errors.Is(err, domain.ErrInvalid) {
				t.Errorf("error = %q, want one that does not blame the caller", err)
			}
			if !strings.Contains(err.Error(), test.says) || strings.Count(err.Error(), address) != 1 {
				t.Fatalf("error = %q, want it to name %q once, and %q", err, address, test.says)
			}
		})
	}
}

func TestAnUnknownMemberOfTheAnswerIsIgnored(t *testing.T) {
	address := impostor(t, saysJSON(`{"application_address":"a:1","raft_id":"n1","cluster_id":"c","version":"v9","zone":{"x":[1]}}`))
	got, err := client(t).Identify(within(t, 5*time.Second), address)
	if err != nil || got.RaftID != "n1" || got.Version != "v9" || got.Format != 0 {
		t.Fatalf("Identify = %+v, %v, want n1 with version v9 and no format", got, err)
	}
}

func TestARequestEndsWithItsContext(t *testing.T) {
	questions := map[string]func(ctx context.Context, c *peerapi.Client, address string) error{
		"the identity": func(ctx context.Context, c *peerapi.Client, address string) error {
			_, err := c.Identify(ctx, address)
			return err
		},
		"the read index": func(ctx context.Context, c *peerapi.Client, address string) error {
			_, err := c.ReadIndex(ctx, address)
			return err
		},
	}
	for name, begun := range map[string]string{
		"without an answer":    "",
		"in the middle of one": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
	} {
		for what, ask := range questions {
			t.Run(what+" "+name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				address := impostor(t, func(conn net.Conn) {
					says(begun)(conn) // it has read the request then
					cancel()
					_, _ = io.Copy(io.Discard, conn)
				})
				// Nothing else ends the request.
				if err := ask(ctx, client(t), address); !errors.Is(err, context.Canceled) {
					t.Errorf("error = %v, want %v", err, context.Canceled)
				}
			})
		}
	}
}

func TestCloseEndsARequest(t *testing.T) {
	asked := make(chan struct{})
	address := impostor(t, func(conn net.Conn) {
		close(asked)
		_, _ = io.Copy(io.Discard, conn)
	})
	c := client(t)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Identify(context.Background(), address)
		failed <- err
	}()
	<-asked
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		if !errors.Is(err, ports.ErrClosed) {
			t.Fatalf("error = %v, want %v", err, ports.ErrClosed)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the request has not ended after Close")
	}
}

func TestAnInvalidAddressIsNotDialled(t *testing.T) {
	for _, address := range []string{"", "n1", "n1:0", ":8008", "a:1/metadata", "u@a:1", "a:1?x", "[::1%lo]:1"} {
		if _, err := client(t).Identify(within(t, time.Second), address); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("Identify of %q = %v, want an invalid address", address, err)
		}
	}
}
