package httpapi_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
)

func TestCloseDoesNotWaitForAClientThatDoesNotRead(t *testing.T) {
	for _, path := range []string{"/nodes", "/raft/backup"} {
		for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
			t.Run(path+" with "+version, func(t *testing.T) {
				t.Parallel()
				protocols := new(http.Protocols)
				protocols.SetHTTP1(version == "HTTP/1.1")
				protocols.SetUnencryptedHTTP2(version == "HTTP/2.0")
				// The client buffers little of an unread response, so the response is stuck
				// soon.
				transport := &http.Transport{Protocols: protocols, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
				defer transport.CloseIdleConnections()
				closeUnread(t, transport, path)
			})
		}
	}
}

// closeUnread closes a service with a response that the client does not read.
func closeUnread(t *testing.T, client http.RoundTripper, path string) {
	t.Helper()
	s := start(t)
	s.fillWithLarge(t, 1500) // far more than the buffers of a loopback socket
	s.get(t, "/nodes")       // the list is cached now, so the response needs no time to encode it
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "identity") // compressed, the list would fit into the buffers
	response, err := client.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	// This is less than the time that a write has while the server is open.
	s.closesWithin(t, conns.WriteGrace)
	if answer, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("the broken-off response of %d bytes ended without an error", len(answer))
	}
}

// A client that reads gets the whole answer.
func TestCloseFinishesLongAnswers(t *testing.T) {
	for path, end := range map[string]string{"/nodes": "}}", "/raft/backup": "\"}\n"} {
		t.Run(path, func(t *testing.T) {
			s := start(t)
			s.fillWithLarge(t, 1500)
			conn := s.dial(t, "GET "+path+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			closed := s.beginClose(t)
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasSuffix(strings.TrimSuffix(string(answer), "\r\n0\r\n\r\n"), end) {
				t.Errorf("response of %d bytes ends with %q: %v", len(answer), answer[max(0, len(answer)-20):], err)
			}
			if err := <-closed; err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}
