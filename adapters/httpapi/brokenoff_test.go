package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
)

// stalled is how long a client may read nothing by default.
const stalled = httpapi.DefaultStalledTimeout

// untilCutOff is longer than the server waits for a client that reads nothing.
const untilCutOff = stalled + stalled/30

// pipes is a listener whose connections buffer nothing: the server can send only what the
// client reads.
type pipes chan net.Conn

// Accept implements net.Listener.
func (p pipes) Accept() (net.Conn, error) {
	if conn, open := <-p; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

// Close implements net.Listener.
func (p pipes) Close() error {
	close(p)
	return nil
}

// Addr implements net.Listener.
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, conn := net.Pipe()
	p <- conn
	return client, nil
}

// overPipes runs do with a service that listens on pipes.
func overPipes(t *testing.T, do func(t *testing.T, s *service, listener pipes)) {
	synctest.Test(t, func(t *testing.T) {
		s, listener := prepare(t), make(pipes)
		server := s.NewHTTP()
		served := make(chan error)
		go func() { served <- server.Serve(listener) }()
		do(t, s, listener)
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// takeUntil reads up to and including text.
func takeUntil(t *testing.T, r io.Reader, text string) []byte {
	t.Helper()
	var got []byte
	for next := make([]byte, 1); !bytes.HasSuffix(got, []byte(text)); got = append(got, next...) {
		if _, err := io.ReadFull(r, next); err != nil {
			t.Fatalf("no %q before %v, only %q", text, err, got)
		}
	}
	return got
}

// takeAll reads what is left, until a deadline, and closes client.
func takeAll(client net.Conn) ([]byte, error) {
	defer client.Close()
	_ = client.SetReadDeadline(time.Now().Add(stalled)) // fails on a pipe whose other end is closed
	return io.ReadAll(client)
}

func end(b []byte) []byte { return b[max(0, len(b)-100):] }

func TestNothingFollowsABrokenOffResponse(t *testing.T) {
	const header, gzip = "\r\n\r\n", "\r\nAccept-Encoding: gzip"
	tests := map[string]struct {
		request string   // without the Host header
		taken   []string // one try for each: the client reads up to this text
		err     error    // of reading the body; nil if it ends with the connection
	}{
		"a stream": {
			"GET /nodes/sse HTTP/1.1", []string{header, "event: sna", `"node000100"`, `"part":2`}, io.ErrUnexpectedEOF,
		},
		"a stream from history": {
			"GET /nodes/sse?since=0 HTTP/1.1", []string{header, "retry", "id: 42", "id: 42\n", "\n\n", "id: 400"}, io.ErrUnexpectedEOF,
		},
		"a stream in HTTP/1.0": {
			"GET /nodes/sse?since=0 HTTP/1.0", []string{header, "id: 42", "\n\n", "id: 400"}, nil,
		},
		"a filtered stream": {
			"GET /nodes/sse?zone=eu-1a HTTP/1.1", []string{header, `"node000100"`}, io.ErrUnexpectedEOF,
		},
		"a stream of the cluster": {
			"GET /raft/metadata/sse HTTP/1.1", []string{header, "retry", "}\n"}, io.ErrUnexpectedEOF,
		},
		"a stream of the cluster in HTTP/1.0": {
			"GET /raft/metadata/sse HTTP/1.0", []string{header, "retry", "}\n"}, nil,
		},
		"a list": {
			"GET /nodes HTTP/1.1", []string{header, "{", "node000100"}, io.ErrUnexpectedEOF,
		},
		"a list in HTTP/1.0": {
			"GET /nodes HTTP/1.0", []string{header, "{", "node000100"}, io.ErrUnexpectedEOF,
		},
		"a compressed list": {
			"GET /nodes HTTP/1.1" + gzip, []string{header, "\x1f\x8b"}, io.ErrUnexpectedEOF,
		},
		"a backup": {
			"GET /raft/backup HTTP/1.1", []string{header, "{", "node000100"}, io.ErrUnexpectedEOF,
		},
		"the metrics": {
			"GET /metrics HTTP/1.1", []string{header, "# HELP", "# TYPE"}, io.ErrUnexpectedEOF,
		},
		"the compressed metrics": {
			"GET /metrics HTTP/1.1" + gzip, []string{header, "\x1f\x8b"}, io.ErrUnexpectedEOF,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			overPipes(t, func(t *testing.T, s *service, listener pipes) {
				s.fill(t, 500)
				for _, last := range test.taken {
					client, err := listener.dial(t.Context(), "", "")
					if err != nil {
						t.Fatal(err)
					}
					go func() { _, _ = io.WriteString(client, test.request+"\r\nHost: h\r\n\r\n") }()
					taken := takeUntil(t, client, header)
					if last != header {
						taken = append(taken, takeUntil(t, client, last)...)
					}
					<-time.After(untilCutOff)
					if behind, err := takeAll(client); len(behind) > 0 || err != nil {
						t.Errorf("after %q came %d bytes ending with %q, %v, want nothing", last, len(behind), end(behind), err)
					}
					response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(taken)), nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err = io.ReadAll(response.Body); !errors.Is(err, test.err) {
						t.Errorf("error after everything up to %q was read = %v, want %v", last, err, test.err)
					}
				}
			})
		})
	}
}

func TestNothingFollowsABrokenOffStreamHeader(t *testing.T) {
	overPipes(t, func(t *testing.T, s *service, listener pipes) {
		for _, version := range []string{"HTTP/1.0", "HTTP/1.1"} {
			client, err := listener.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(client, "GET /nodes/sse "+version+"\r\nHost: h\r\n\r\n") }()
			takeUntil(t, client, version+" 200")
			<-time.After(untilCutOff)
			if behind, err := takeAll(client); len(behind) > 0 || err != nil {
				t.Errorf("%s: %d bytes ending with %q came, %v, want nothing", version, len(behind), end(behind), err)
			}
		}
	})
}

// In HTTP/2 the server resets only the stream, and other requests go on.
func TestABrokenOffHTTP2ResponseIsReset(t *testing.T) {
	for _, path := range []string{"/nodes/sse", "/nodes/sse?since=0", "/nodes", "/raft/backup"} {
		t.Run(path, func(t *testing.T) {
			overPipes(t, func(t *testing.T, s *service, listener pipes) {
				s.fill(t, 2000)
				protocols := new(http.Protocols)
				protocols.SetUnencryptedHTTP2(true)
				transport := &http.Transport{
					Protocols: protocols, DialContext: listener.dial, DisableCompression: true,
					HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
				}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport}
				get := func() io.ReadCloser {
					response, err := client.Get("http://h" + path)
					if err != nil {
						t.Fatal(err)
					}
					return response.Body
				}
				stuck := get()
				defer stuck.Close()
				<-time.After(untilCutOff)
				got, err := io.ReadAll(stuck)
				if err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR") {
					t.Errorf("error after %d bytes = %v, want INTERNAL_ERROR", len(got), err)
				}
				good := get()
				defer good.Close()
				want := make([]byte, len(got)+1)
				if _, err := io.ReadFull(good, want); err != nil || !bytes.HasPrefix(want, got) {
					t.Errorf("the broken-off response of %d bytes, ending with %q, differs from that of another client: %v", len(got), end(got), err)
				}
				if strings.Contains(path, "sse") && s.metric(t, "nodesmetadata_http_stream_cut_off_total", "nodes") != 1 {
					t.Error("the stream was not counted as cut off")
				}
			})
		})
	}
}
