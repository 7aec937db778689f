package harness_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// renewals is a fake instance that counts heartbeats. A test decides what it does
// before it answers one.
type renewals struct {
	*httptest.Server
	before func(w http.ResponseWriter, r *http.Request) (answered bool)

	mu   sync.Mutex
	seen map[string]int
}

func startRenewals(t *testing.T, before func(http.ResponseWriter, *http.Request) bool) *renewals {
	i := &renewals{before: before, seen: map[string]int{}}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.before != nil && i.before(w, r) {
			return
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		i.seen[strings.Split(r.URL.Path, "/")[2]]++
		w.Header().Set("Nodesmetadata-Revision", "7")
		_, _ = io.WriteString(w, `{"id":"a"}`)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *renewals) address() string { return strings.TrimPrefix(i.URL, "http://") }

func (i *renewals) of(id string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen[id]
}

func TestAgentsRenewAndStopRenewing(t *testing.T) {
	t.Parallel() // most of it is waiting
	i := startRenewals(t, nil)
	began := time.Now()
	agents := harness.StartAgents(t, 2, []string{i.address()}, []string{"a", "b", "c"})
	agents.Await(t)
	agents.Await(t)
	agents.Drop("b")
	stopped, last := i.of("b"), agents.Last("b")
	if last.Sent.Before(began) || last.Acknowledged.Before(last.Sent) {
		t.Errorf("last renewal = %+v, want one sent and then acknowledged after %v", last, began)
	}
	agents.Await(t)
	agents.Await(t)
	if i.of("b") != stopped || agents.Last("b") != last {
		t.Errorf("renewals of a dropped node = %d, want %d as when it was dropped", i.of("b"), stopped)
	}
	agents.Resume("b")
	agents.Await(t)
	if i.of("b") == stopped || !agents.Last("b").Sent.After(last.Sent) {
		t.Error("a node that was resumed was not renewed, or Last does not show the renewal")
	}
	agents.Stop()
	counts := agents.Counts()
	if sum := i.of("a") + i.of("b") + i.of("c"); counts.Acknowledged != sum || counts.Failed != 0 || agents.Err() != nil {
		t.Errorf("Counts = %+v, Err = %v, want %d acknowledged and none failed", counts, agents.Err(), sum)
	}
	if counts.Longest < 500*time.Millisecond || counts.Longest > 3*time.Second {
		t.Errorf("longest time between two renewals = %v, want about a second", counts.Longest)
	}
}

func TestAgentsMoveOnToTheNextInstance(t *testing.T) {
	good := startRenewals(t, nil)
	tests := map[string]func(http.ResponseWriter, *http.Request) bool{
		"one that hangs": func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return true
		},
		"one without a leader": func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"code":"no_leader"}`)
			return true
		},
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := startRenewals(t, before)
			id := strings.ReplaceAll(name, " ", "-")
			agents := harness.StartAgents(t, 1, []string{bad.address(), good.address()}, []string{id})
			agents.Await(t)
			agents.Await(t)
			agents.Stop()
			if counts := agents.Counts(); counts.Failed != 1 || good.of(id) != counts.Acknowledged || agents.Err() != nil {
				t.Errorf("Counts = %+v, Err = %v, want 1 failed and %d acknowledged", counts, agents.Err(), good.of(id))
			}
		})
	}
}

func TestAgentsReportRefusedRenewals(t *testing.T) {
	i := startRenewals(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"code":"node_not_found"}`)
		return true
	})
	agents := harness.StartAgents(t, 1, []string{i.address()}, []string{"a"})
	harness.Eventually(t, "a refusal", func() error {
		if err := agents.Err(); err == nil || !strings.Contains(err.Error(), "node_not_found") {
			return fmt.Errorf("error = %v, want node_not_found", err)
		}
		return nil
	})
}
