package httpapi_test

import (
	"io"
	"strings"
	"testing"
	"time"
)

// Who asks and asks, and reads no answer, has full sockets. Then an answer that is short
// waits as well, and one that others write.
func TestCloseDoesNotWaitForWhoAsksOnAndOn(t *testing.T) {
	for _, path := range []string{"/nope", "/metrics"} {
		t.Run(path, func(t *testing.T) {
			s := start(t)
			conn := s.dial(t, "")
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
			s.closesWithin(t, stopsWithin)
			_ = conn.Close()
			<-ended
		})
	}
}
