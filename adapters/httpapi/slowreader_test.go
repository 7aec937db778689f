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
	// This is more than the buffers of a loopback socket hold.
	zone := strings.Repeat("z", domain.MaxZoneBytes)
	labels := map[string]string{}
	for i := range domain.MaxLabels {
		labels[fmt.Sprint(i)] = strings.Repeat("v", domain.MaxLabelValueBytes)
	}
	for weight := range 800 {
		s.register(t, domain.NodeSpec{ID: "a", Address: "h:1", Zone: zone, Labels: labels, Weight: &weight})
		if got := good.event(t); got.id != fmt.Sprint(weight+1) {
			t.Fatalf("id of the event = %q, want %d", got.id, weight+1)
		}
	}
	eventually(t, "the stalled stream is cut off", func() bool {
		return s.metric(t, "nodesmetadata_http_stream_cut_off_total", "nodes") == 1
	})
	eventually(t, "the stalled stream is closed", func() bool { return s.metric(t, "nodesmetadata_http_streams_open") == 1 })
	// The client can read what has arrived; the kernel drops the rest.
	if err := stalled.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(stalled), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error of the stalled stream after %d bytes = %v, want ECONNRESET", len(got), err)
	}
	whole := bytes.Split(got, []byte("\n\n"))
	for i, event := range whole[:len(whole)-1] {
		if !bytes.Contains(event, fmt.Appendf(nil, "\nid: %d\ndata: {", i+1)) || !bytes.HasSuffix(event, []byte(`"reason":"request"}`)) {
			t.Fatalf("event = %q, want id %d", event, i+1)
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
		t.Errorf("first event = %.100q, want a snapshot with id %d", got.raw, domain.HistoryLength+2)
	}
	// A client that is just within the history still gets the changes.
	events = s.stream(t, "/nodes/sse?since=2")
	for revision := 3; revision <= domain.HistoryLength+2; revision++ {
		if got := events.event(t); got.id != fmt.Sprint(revision) || got.kind != "updated" {
			t.Fatalf("event = %.100q, want the update %d", got.raw, revision)
		}
	}
}

func TestStreamsThatComeAndGoLeaveNothingBehind(t *testing.T) {
	s := start(t)
	s.undescribed() // so many checks at once would make requests time out
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
