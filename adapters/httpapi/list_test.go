package httpapi_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// A list that is requested after a write was answered has that write, whatever other
// clients read and write.
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
					t.Errorf("answer = %d %s: %v", got.status, got.body, err)
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
					t.Errorf("revision of the list = %s, want at least %d", revision, atLeast)
				}
				var nodes map[string]json.RawMessage
				if err := json.Unmarshal([]byte(got.body), &nodes); err != nil {
					t.Error(err)
				}
				// Every write adds a node, so there are as many nodes as revisions.
				if strconv.Itoa(len(nodes)) != revision || got.header.Get("ETag") != `"`+revision+`"` {
					t.Errorf("list at revision %s: nodes = %d, ETag = %s, want both equal to the revision", revision, len(nodes), got.header.Get("ETag"))
				}
			}
		})
	}
	writing.Wait()
	close(over)
	reading.Wait()
}
