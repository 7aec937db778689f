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

// ask sends a request on a pipe of its own, whose client takes nothing yet.
func (p pipes) ask(t *testing.T, request string) net.Conn {
	t.Helper()
	client, err := p.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(client, request+"\r\nHost: h\r\n\r\n") }()
	return client
}

// nothingComes holds that for a while there is nothing for client to take.
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
		t.Fatalf("%d bytes came before the turn: %v", n, err)
	}
}

// To encode a large registry takes long, and when many do it side by side raft has to wait
// for all of them.
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
				// The stream is in the middle of a part, whose client reads slowly.
				done = s.MakeLists()
				takeUntil(t, client, "\r\n") // all that was encoded
				nothingComes(t, client)
				done()
				takeUntil(t, client, `"part":3,`)
			})
		})
	}
}

// How many parts there are takes long to find out, too, and nothing is sent meanwhile.
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
		for range 15 { // fewer than there are parts
			<-time.After(time.Second)
			done()
			done = s.MakeLists() // it has made a part
		}
		defer done()
		select {
		case text := <-heard:
			if !strings.HasSuffix(text, ": keep-alive") {
				t.Errorf("stream = %q, want a keep-alive", text)
			}
		case <-time.After(time.Millisecond):
			t.Error("nothing came in 15 s")
		}
	})
}

// Otherwise a client that gives up and reconnects, again and again, would wait for the
// snapshots that it gave up.
func TestASnapshotWithoutSubscribersIsNotEncoded(t *testing.T) {
	tests := map[string]func(t *testing.T, s *service, client net.Conn){
		"its client has gone": func(_ *testing.T, _ *service, client net.Conn) { client.Close() },
		"the server closes": func(t *testing.T, s *service, client net.Conn) {
			s.closesWithin(t, patience)
			go func() { _, _ = io.Copy(io.Discard, client) }() // the last words
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
				synctest.Wait() // until it is its turn
				done()
				done = s.MakeLists() // it has made a part
				end(t, s, client)
				synctest.Wait()
				for range 2 { // another one, at most
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

// A backup is encoded anew for each request.
func TestABackupIsEncodedInTurns(t *testing.T) {
	overPipes(t, func(t *testing.T, s *service, listener pipes) {
		s.fill(t, 1000)
		done := s.MakeLists()
		client := listener.ask(t, "GET /raft/backup HTTP/1.1")
		defer client.Close()
		nothingComes(t, client)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		w := httptest.NewRecorder() // who asks for the header alone does not wait
		s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodHead, "/raft/backup", nil))
		if w.Code != 200 || w.Body.Len() > 0 {
			t.Errorf("got %d and %d bytes", w.Code, w.Body.Len())
		}
		done()
		takeUntil(t, client, `"nodes":1000`)
		done = s.MakeLists() // while somebody takes his time
		done()
		takeUntil(t, client, `"sha256"`)
	})
}

// slowly reads so many bytes in a second.
type slowly struct {
	io.Reader
	rate int
}

func (s slowly) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	<-time.After(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

// A client that reads all the time, but slowly, would otherwise hold up the end of the server
// for as long as it takes to send it all that there is.
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
					t.Errorf("after the end began came %d bytes, ending with %q: %v", len(rest), end(rest), err)
				}
			})
		})
	}
}

// As long as a snapshot is on its way, the registry that it shows is kept.
func TestASlowReaderOfASnapshotIsCutOff(t *testing.T) {
	tests := map[string]struct {
		rate  int
		whole bool
	}{
		"1 Mbit/s is enough":              {rate: 1_000_000 / 8, whole: true},
		"8 KiB in five seconds is not":    {rate: (8 << 10) / 5},
		"nor is somewhat less than asked": {rate: 20_000},
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
					// What comes behind it may be taken at leisure.
					<-time.After(stalled * 9 / 10)
					if line, err = in.ReadString('\n'); !strings.HasPrefix(line, ": keep-alive") {
						t.Errorf("line = %q, %v, want a keep-alive", line, err)
					}
				})
			})
		}
	}
}
