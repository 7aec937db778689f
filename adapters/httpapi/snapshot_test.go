package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// ask sends a request on a new connection, of which the client has read nothing yet.
func (p pipes) ask(t *testing.T, request string) net.Conn {
	t.Helper()
	client, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(client, request+"\r\nHost: h\r\n\r\n") }()
	return client
}

// nothingComes checks that nothing is sent to client for a second.
func nothingComes(t *testing.T, client net.Conn) {
	t.Helper()
	deadline := func(at time.Time) {
		if err := client.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
	}
	deadline(time.Now().Add(time.Second))
	defer deadline(time.Time{})
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("bytes before the turn of the stream = %d, %v, want none", n, err)
	}
}

// Encoding a large registry takes long. If many requests did it at the same time, raft
// would have to wait for a processor.
func TestASnapshotIsEncodedInTurns(t *testing.T) {
	for _, query := range []string{"", "?zone=eu-1a"} {
		t.Run(query, func(t *testing.T) {
			overPipes(t, func(t *testing.T, s *service, listener pipes) {
				s.fill(t, 1000)
				done := s.MakeLists()
				client := listener.ask(t, "GET /nodes/sse"+query+" HTTP/1.1")
				defer client.Close()
				takeUntil(t, client, "\r\n\r\n")
				nothingComes(t, client)
				done()
				takeUntil(t, client, `"part":1`)
				// Here the stream is in the middle of a part, and its client reads slowly.
				done = s.MakeLists()
				takeUntil(t, client, "\r\n") // the end of what was encoded
				nothingComes(t, client)
				done()
				takeUntil(t, client, `"part":3,`)
			})
		})
	}
}

// Counting the parts takes long, too, and the subscriber gets no event meanwhile.
func TestASubscriberThatWaitsForASnapshotGetsKeepAlives(t *testing.T) {
	overPipes(t, func(t *testing.T, s *service, listener pipes) {
		s.fill(t, 5000)
		done := s.MakeLists()
		client := listener.ask(t, "GET /nodes/sse HTTP/1.1")
		defer client.Close()
		takeUntil(t, client, "\r\n\r\n")
		heard := make(chan string, 1)
		go func() {
			b, _ := bufio.NewReader(client).Peek(len("0000\r\n: keep-alive"))
			heard <- string(b)
		}()
		for range 15 { // fewer than the number of parts
			<-time.After(time.Second)
			done()
			done = s.MakeLists() // one part is encoded
		}
		defer done()
		select {
		case text := <-heard:
			if !strings.HasSuffix(text, ": keep-alive") {
				t.Errorf("stream = %q, want a keep-alive", text)
			}
		case <-time.After(time.Millisecond):
			t.Error("the stream sent nothing for 15 s, want a keep-alive")
		}
	})
}

// Otherwise a client that gives up and reconnects again and again would wait for the snapshots
// that it gave up.
func TestASnapshotWithoutSubscribersIsNotEncoded(t *testing.T) {
	tests := map[string]func(t *testing.T, s *service, client net.Conn){
		"the client has gone": func(_ *testing.T, _ *service, client net.Conn) { client.Close() },
		"the server closes": func(t *testing.T, s *service, client net.Conn) {
			s.closesWithin(t, patience)
			go func() { _, _ = io.Copy(io.Discard, client) }() // the farewell
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			overPipes(t, func(t *testing.T, s *service, listener pipes) {
				s.fill(t, 5000)
				done := s.MakeLists()
				client := listener.ask(t, "GET /nodes/sse HTTP/1.1")
				defer client.Close()
				takeUntil(t, client, "\r\n\r\n")
				synctest.Wait() // the stream waits for its turn
				done()
				done = s.MakeLists() // one part is encoded
				end(t, s, client)
				synctest.Wait()
				for range 2 { // at most one more part
					done()
					done = s.MakeLists()
				}
				defer done()
				synctest.Wait()
				if open := s.metric(t, "nodesmetadata_http_streams_open"); open != 0 {
					t.Error("the snapshot is still being encoded")
				}
			})
		})
	}
}

// A backup is encoded for each request, and not cached.
func TestABackupIsEncodedInTurns(t *testing.T) {
	overPipes(t, func(t *testing.T, s *service, listener pipes) {
		s.fill(t, 1000)
		done := s.MakeLists()
		client := listener.ask(t, "GET /raft/backup HTTP/1.1")
		defer client.Close()
		nothingComes(t, client)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		w := httptest.NewRecorder() // a HEAD does not wait for a turn
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodHead, "/raft/backup", nil))
		if w.Code != 200 || w.Body.Len() > 0 {
			t.Errorf("answer to HEAD = %d with %d bytes, want 200 without a body", w.Code, w.Body.Len())
		}
		done()
		takeUntil(t, client, `"nodes":1000`)
		done = s.MakeLists() // another request encodes
		done()
		takeUntil(t, client, `"sha256"`)
	})
}

// slowly is a reader that reads this many bytes a second.
type slowly struct {
	io.Reader
	rate int
}

func (s slowly) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	<-time.After(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

// A client that reads all the time, but slowly, would otherwise delay the end of the server
// until all of the snapshot is sent.
func TestAServerThatClosesDoesNotSendASlowReaderAllThatThereIs(t *testing.T) {
	for name, query := range map[string]string{"of a snapshot": "", "of history": "?since=0"} {
		t.Run(name, func(t *testing.T) {
			overPipes(t, func(t *testing.T, s *service, listener pipes) {
				s.fill(t, 5000)
				client := listener.ask(t, "GET /nodes/sse"+query+" HTTP/1.1")
				defer client.Close()
				takeUntil(t, client, "retry")
				s.closesWithin(t, patience)
				rest, err := io.ReadAll(slowly{bufio.NewReaderSize(client, 1<<10), 64 << 10})
				if err != nil || len(rest) > 64<<10 || !strings.HasSuffix(string(rest), ": this instance is shutting down: connect again\n\n\r\n0\r\n\r\n") {
					t.Errorf("%d bytes ending with %q came after Close began, %v, want at most 64 KiB and the farewell", len(rest), end(rest), err)
				}
			})
		})
	}
}

// The registry of a snapshot is kept in memory until the snapshot is sent.
func TestASlowReaderOfASnapshotIsCutOff(t *testing.T) {
	tests := map[string]struct {
		rate  int
		whole bool
	}{
		"1 Mbit/s is enough":                           {rate: 1_000_000 / 8, whole: true},
		"8 KiB in 5 s is not enough":                   {rate: (8 << 10) / 5},
		"a little less than the minimum is not enough": {rate: 20_000},
	}
	for name, test := range tests {
		for _, http2 := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " in HTTP/2"}[http2], func(t *testing.T) {
				overPipes(t, func(t *testing.T, s *service, listener pipes) {
					s.fill(t, 5000)
					protocols := new(http.Protocols)
					protocols.SetHTTP1(!http2)
					protocols.SetUnencryptedHTTP2(http2)
					transport := &http.Transport{
						Protocols: protocols, DialContext: listener.dial,
						HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
					}
					defer transport.CloseIdleConnections()
					response, err := (&http.Client{Transport: transport}).Get("http://h/nodes/sse")
					if err != nil {
						t.Fatal(err)
					}
					defer response.Body.Close()
					began, in := time.Now(), bufio.NewReader(slowly{response.Body, test.rate})
					line := ""
					for err == nil && line != "id: 5000\n" {
						line, err = in.ReadString('\n')
					}
					if whole := err == nil; whole != test.whole {
						t.Fatalf("snapshot is whole = %v, want %v; after %v: %v", whole, test.whole, time.Since(began), err)
					}
					if !test.whole {
						if cut := s.metric(t, "nodesmetadata_http_stream_cut_off_total", "nodes"); cut != 1 || time.Since(began) > time.Minute {
							t.Errorf("streams cut off = %v after %v, want 1 within a minute", cut, time.Since(began))
						}
						return
					}
					_, _ = in.ReadString('\n')
					_, _ = in.ReadString('\n')
					// The client may take its time with what follows the snapshot.
					<-time.After(stalled * 9 / 10)
					if line, err = in.ReadString('\n'); !strings.HasPrefix(line, ": keep-alive") {
						t.Errorf("line = %q, %v, want a keep-alive", line, err)
					}
				})
			})
		}
	}
}
