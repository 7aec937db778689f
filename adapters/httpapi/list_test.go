package httpapi_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// A request for the list after a write was answered sees that write, whatever others read
// and write.
func TestTheListIsAsFreshAsTheLastWrite(t *testing.T) {
	s := start(t)
	const writers, readers, writes = 3, 6, 60
	var acknowledged atomic.Uint64
	var writing, reading sync.WaitGroup
	over := make(chan struct{})
	for w := range writers {
		writing.Go(func() {
			for i := range writes {
				got := s.do(t, "PUT", fmt.Sprintf("/nodes/w%d-%d", w, i), fmt.Sprintf(`{"address":"h%d:%d"}`, w, i+1))
				revision, err := strconv.ParseUint(got.header.Get("Nodesmetadata-Revision"), 10, 64)
				if err != nil {
					t.Errorf("%d %s: %v", got.status, got.body, err)
					return
				}
				for {
					known := acknowledged.Load()
					if known >= revision || acknowledged.CompareAndSwap(known, revision) {
						break
					}
				}
			}
		})
	}
	for range readers {
		reading.Go(func() {
			for last := false; !last; {
				select {
				case <-over:
					last = true
				default:
				}
				atLeast := acknowledged.Load()
				got := s.do(t, "GET", "/nodes", "")
				revision := got.header.Get("Nodesmetadata-Revision")
				if n, _ := strconv.ParseUint(revision, 10, 64); n < atLeast {
					t.Errorf("the list is at %s after %d was answered", revision, atLeast)
				}
				var nodes map[string]json.RawMessage
				if err := json.Unmarshal([]byte(got.body), &nodes); err != nil {
					t.Error(err)
				}
				// Every write here adds a node.
				if strconv.Itoa(len(nodes)) != revision || got.header.Get("ETag") != `"`+revision+`"` {
					t.Errorf("the list of revision %s has %d nodes, and the tag %s", revision, len(nodes), got.header.Get("ETag"))
				}
			}
		})
	}
	writing.Wait()
	close(over)
	reading.Wait()
}
