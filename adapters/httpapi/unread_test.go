package httpapi_test

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// unreadWithin is less than the time that net/http gives a response, and more than a
// response has once the server closes.
const unreadWithin = 8 * time.Second

// The sockets of a client that sends requests and reads no answers are full. Then even short
// answers wait, also those that net/http writes.
func TestCloseDoesNotWaitForAClientThatKeepsAsking(t *testing.T) {
	for _, path := range []string{"/nope", "/metrics"} {
		t.Run(path, func(t *testing.T) {
			s := start(t)
			conn := s.dial(t, "").(*net.TCPConn)
			if err := conn.SetReadBuffer(4 << 10); err != nil { // a small buffer is soon full
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				requests := strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n", 1000)
				for {
					if _, err := io.WriteString(conn, requests); err != nil {
						return
					}
				}
			}()
			answered := func() float64 { return s.metric(t, "nodesmetadata_http_requests_total") }
			eventually(t, "an answer is stuck", func() bool {
				before := answered()
				<-time.After(200 * time.Millisecond)
				return before > 0 && before == answered()
			})
			s.closesWithin(t, unreadWithin)
			_ = conn.Close()
			<-ended
		})
	}
}

// An HTTP/2 client announces how much of a response it accepts, and may accept nothing.
func TestCloseDoesNotWaitForAnHTTP2ClientWithoutAWindow(t *testing.T) {
	for _, path := range []string{"/livez", "/nope", "/nodes/sse?nope", "/metrics", "/raft/backup"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			s.dial(t, askedByHTTP2(path, []byte{0, 4, 0, 0, 0, 0}))
			eventually(t, "an answer is stuck", func() bool { return s.OpenResponses() == 1 })
			s.closesWithin(t, unreadWithin)
		})
	}
}

// askedByHTTP2 returns all bytes of an HTTP/2 client with these settings that asks for a path.
func askedByHTTP2(path string, settings []byte) string {
	const ofSettings, ofHeaders, endOfBoth = 4, 1, 5
	// The first two are indexes of the static table: GET and http. The path and the
	// authority are literals.
	request := append([]byte{0x82, 0x86, 0x04, byte(len(path))}, path...)
	request = append(request, "\x01\x01h"...)
	return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frameOfHTTP2(ofSettings, 0, 0, settings) + frameOfHTTP2(ofHeaders, endOfBoth, 1, request)
}

func frameOfHTTP2(kind, flags byte, stream uint32, payload []byte) string {
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	frame = append(frame, flags)
	frame = binary.BigEndian.AppendUint32(frame, stream)
	return string(append(frame, payload...))
}
