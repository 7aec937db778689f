package httpapi_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestAReaderThatTakesNothingDelaysNobodyAndIsCutOff(t *testing.T) {
	s := start(t, func(c *httpapi.Config) { c.StalledTimeout = 300 * time.Millisecond })
	stalled := s.dial(t, "GET /nodes/sse?since=0 HTTP/1.1\r\nHost: h\r\n\r\n")
	eventually(t, "the stream is open", func() bool { return s.metric(t, "nodesmetadata_http_streams_open") == 1 })
	good := s.stream(t, "/nodes/sse?since=0")
	// More than the buffers of a socket on loopback hold.
	zone := strings.Repeat("z", domain.MaxZoneBytes)
	labels := map[string]string{}
	for i := range domain.MaxLabels {
		labels[fmt.Sprint(i)] = strings.Repeat("v", domain.MaxLabelValueBytes)
	}
	for weight := range 800 {
		s.register(t, domain.NodeSpec{ID: "a", Address: "h:1", Zone: zone, Labels: labels, Weight: &weight})
		if got := good.event(t); got.id != fmt.Sprint(weight+1) {
			t.Fatalf("instead of %d came %q", weight+1, got.id)
		}
	}
	eventually(t, "the stalled stream is cut off", func() bool {
		return s.metric(t, "nodesmetadata_http_stream_cut_off_total", "nodes") == 1
	})
	eventually(t, "its stream is closed", func() bool { return s.metric(t, "nodesmetadata_http_streams_open") == 1 })
	// What has arrived is there to be read; the rest is dropped, also by the kernel.
	if err := stalled.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(stalled), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after %d bytes it ended with %v", len(got), err)
	}
	whole := bytes.Split(got, []byte("\n\n"))
	for i, event := range whole[:len(whole)-1] {
		if !bytes.Contains(event, fmt.Appendf(nil, "\nid: %d\ndata: {", i+1)) || !bytes.HasSuffix(event, []byte(`"reason":"request"}`)) {
			t.Fatalf("instead of %d came %q", i+1, event)
		}
	}
}

func TestASlowReaderThatFellOutOfHistoryGetsASnapshot(t *testing.T) {
	s := start(t)
	s.register(t, domain.NodeSpec{ID: "a", Address: "h:1"})
	for i := range domain.HistoryLength + 1 {
		s.register(t, domain.NodeSpec{ID: "a", Address: "h:1", Weight: &i})
	}
	events := s.stream(t, "/nodes/sse?since=1")
	if got := events.event(t); got.kind != "snapshot" || got.id != fmt.Sprint(domain.HistoryLength+2) {
		t.Errorf("got %.100q", got.raw)
	}
	// The oldest that is kept is still streamed as changes.
	events = s.stream(t, "/nodes/sse?since=2")
	for revision := 3; revision <= domain.HistoryLength+2; revision++ {
		if got := events.event(t); got.id != fmt.Sprint(revision) || got.kind != "updated" {
			t.Fatalf("instead of %d came %.100q", revision, got.raw)
		}
	}
}

func TestStreamsThatComeAndGoLeaveNothingBehind(t *testing.T) {
	s := start(t)
	s.undescribed() // all at once they would take so long that requests time out
	s.fill(t, 100)
	before := runtime.NumGoroutine()
	var done sync.WaitGroup
	for i := range 200 {
		path := []string{"/nodes/sse", "/raft/metadata/sse"}[i%2]
		done.Go(func() {
			events := s.stream(t, path)
			events.event(t)
			events.cancel()
			for range events.blocks {
			}
		})
	}
	done.Wait()
	s.client.CloseIdleConnections()
	eventually(t, "the streams are closed", func() bool { return s.metric(t, "nodesmetadata_http_streams_open") == 0 })
	eventually(t, "their goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}
