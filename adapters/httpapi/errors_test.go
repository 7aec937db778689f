package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// leaderCalls are the calls that only the leader answers, with paths and bodies.
var leaderCalls = []struct{ method, path, body string }{
	{"GET", "/nodes", ""},
	{"HEAD", "/nodes", ""},
	{"GET", "/nodes/a%3A1", ""},
	{"PUT", "/nodes", `{"id":"a","address":"h:1"}`},
	{"PUT", "/nodes/a", `{"address":"h:1"}`},
	{"DELETE", "/nodes/a", ""},
	{"POST", "/nodes/batch", `{"changes":[{"remove":"a"}]}`},
	{"POST", "/nodes/a/heartbeat", ""},
	{"POST", "/nodes/expire?pool=p", ""},
	{"GET", "/nodes/expire", ""},
	{"GET", "/nodes?pool=p&label=a=b%20c&since=7&wait=1s", ""},
	{"GET", "/nodes/a?min_revision=7&redirect=true&consistency=linearizable", ""},
	{"DELETE", "/nodes/a?redirect=true", ""},
	{"PUT", "/raft/node", `{"id":"n3","address":"h:1"}`},
	{"DELETE", "/raft/node/n1", ""},
	{"PUT", "/raft/node?force=true", `{"id":"n3","address":"h:1"}`},
	{"POST", "/raft/leadership", `{"id":"n1"}`},
	{"POST", "/raft/leadership", ""},
	{"GET", "/raft/metadata", ""},
}

func TestAFollowerSendsToTheLeader(t *testing.T) {
	s := start(t)
	s.follow("leader.test:8080")
	calls := append(leaderCalls, []struct{ method, path, body string }{
		{"GET", "/nodes/sse?since=3", ""},
		{"HEAD", "/nodes/sse", ""},
		{"GET", "/raft/metadata/sse", ""},
	}...)
	for _, call := range calls {
		got := s.do(t, call.method, call.path, call.body)
		if want := "http://leader.test:8080" + call.path; got.status != 307 || got.header.Get("Location") != want {
			t.Errorf("%s %s: answer = %d to %q, want 307 to %q", call.method, call.path, got.status, got.header.Get("Location"), want)
		}
		if call.method == "HEAD" {
			continue
		}
		if code, _ := got.problem(t); code != "not_leader" {
			t.Errorf("%s %s: code = %s, want not_leader", call.method, call.path, code)
		}
	}
	if got := s.metric(t, "nodesmetadata_http_redirects_total"); got != float64(len(calls)) {
		t.Errorf("counted redirects = %v, want %d", got, len(calls))
	}
	for _, path := range []string{"/livez", "/readyz", "/version", "/metrics"} {
		if got := s.do(t, "GET", path, ""); got.status != 200 {
			t.Errorf("%s of a follower: status = %d, want 200", path, got.status)
		}
	}
}

// Some clients send such bytes unescaped, and others would read them in a header as Latin-1.
func TestARedirectIsAnAddressInASCII(t *testing.T) {
	s := start(t)
	s.follow("leader.test:8080")
	conn := s.dial(t, "GET /nodes?zone=Z\u00fcrich%201 HTTP/1.1\r\nHost: h\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, want := response.Header.Get("Location"), "http://leader.test:8080/nodes?zone=Z%C3%BCrich%201"; got != want {
		t.Errorf("Location = %q, want %q", got, want)
	}
}

func TestARedirectGoesToAnIPv6AddressToo(t *testing.T) {
	s := start(t)
	s.follow("[::1]:8080")
	if got := s.do(t, "GET", "/nodes", ""); got.header.Get("Location") != "http://[::1]:8080/nodes" {
		t.Errorf("Location = %q, want an IPv6 address in brackets", got.header.Get("Location"))
	}
}

// net/http accepts queries that no URL may have, and the leader looks at all of the query. A
// client that follows a redirect cuts off what follows a #, and many refuse a space.
func TestARedirectTakesTheWholeQueryToTheLeader(t *testing.T) {
	s := start(t)
	s.follow("leader.test:8080")
	query := &url.URL{Path: "/nodes", RawQuery: "zone=a#b c%23&label=k=#"}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, (&http.Request{Method: "GET", URL: query, Body: http.NoBody}).WithContext(t.Context()))
	location, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != 307 {
		t.Fatalf("answer = %d to %q, %v, want 307 to a URL", w.Code, w.Header().Get("Location"), err)
	}
	want := url.Values{"zone": {"a#b c#"}, "label": {"k=#"}}
	if got := location.Query(); !maps.EqualFunc(got, want, slices.Equal) || strings.Contains(location.RawQuery, " ") {
		t.Errorf("redirect to %q with the query %v, want %v", location, got, want)
	}
}

func TestThereIsNoRedirectWithoutALeader(t *testing.T) {
	tests := map[string]func(*service){
		"nobody leads":                 func(s *service) { s.loseLeader() },
		"the leader does not answer":   func(s *service) { s.follow("") },
		"the leader claims to be here": func(s *service) { s.follow("n1.test:8080") },
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			set(s)
			for _, call := range leaderCalls {
				got := s.do(t, call.method, call.path, call.body)
				if got.status != 503 || got.header.Get("Retry-After") != "1" || got.header.Get("Location") != "" {
					t.Errorf("%s %s: answer = %d %v, want 503 with Retry-After: 1 and no redirect", call.method, call.path, got.status, got.header)
				}
				if call.method == "HEAD" {
					continue
				}
				if code, _ := got.problem(t); code != "no_leader" {
					t.Errorf("%s %s: code = %s, want no_leader", call.method, call.path, code)
				}
			}
		})
	}
}

func TestErrorsOfThePorts(t *testing.T) {
	tests := map[string]struct {
		err    error
		status int
		code   string
	}{
		"an unknown outcome that wraps a missing leader": {fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, ports.ErrNotLeader), 503, "outcome_unknown"},
		"an unknown outcome that wraps a timeout":        {fmt.Errorf("%w: %w", ports.ErrOutcomeUnknown, context.DeadlineExceeded), 503, "outcome_unknown"},
		"too many writes wait":                           {ports.ErrBusy, 503, "busy"},
		"an instance can't read the command yet":         {ports.ErrUpgrading, 503, "upgrade_in_progress"},
		"the instance closes":                            {ports.ErrClosed, 503, "shutting_down"},
		"the instance has lost touch":                    {ports.ErrCutOff, 503, "no_leader"},
		"the instance has not caught up":                 {ports.ErrNotCaughtUp, 503, "not_caught_up"},
		"the instance has not heard from a leader":       {ports.ErrTooStale, 503, "too_stale"},
		"the instance is behind":                         {ports.ErrBehind, 503, "revision_not_reached"},
		"nobody can take over":                           {ports.ErrNoSuccessor, 503, "no_successor"},
		"the deadline has passed":                        {fmt.Errorf("read: %w", context.DeadlineExceeded), 503, "timeout"},
		"the registry is full":                           {&domain.Refusal{Err: domain.ErrRegistryFull, Revision: 9}, 409, "registry_full"},
		"an unexpected error":                            {errors.New("the secret is 1234"), 500, "internal"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.undescribed() // a write is not described with all of these
			s.instance.FailWith(test.err)
			got := s.do(t, "PUT", "/nodes/a", `{"address":"h:1"}`)
			code, detail := got.problem(t)
			if got.status != test.status || code != test.code {
				t.Errorf("answer = %d %s, want %d %s; detail: %s", got.status, code, test.status, test.code, detail)
			}
			if retry := got.header.Get("Retry-After"); (retry == "1") != (got.status == 503) {
				t.Errorf("Retry-After = %q for status %d, want 1 only with 503", retry, got.status)
			}
			var refusal *domain.Refusal
			if errors.As(test.err, &refusal) && got.header.Get("Nodesmetadata-Revision") != "9" {
				t.Error("Nodesmetadata-Revision is not the revision of the refusal")
			}
			if logged := strings.Count(s.log.String(), "1234"); strings.Contains(detail, "1234") || logged != 0 != (test.status == 500) {
				t.Errorf("detail = %q, log lines with the error = %d, want the error only in the log, and only for status 500", detail, logged)
			}
		})
	}
}

func TestAReadEndsAtItsDeadline(t *testing.T) {
	s := start(t, func(c *httpapi.Config) {
		c.RequestTimeout = 20 * time.Millisecond
		c.Nodes = fakeNodes{view: func(ctx context.Context) (domain.View, error) {
			<-ctx.Done()
			return domain.View{}, ctx.Err()
		}}
	})
	got := s.do(t, "GET", "/nodes", "")
	if code, _ := got.problem(t); got.status != 503 || code != "timeout" || got.header.Get("Retry-After") != "1" {
		t.Errorf("answer = %d %s, want 503 timeout with Retry-After: 1", got.status, code)
	}
}

// An instance may notice late that it was deposed, and the new leader may not give its address.
// The request must still be refused within a second, as promised.
func TestALateRefusalTakesNoLongerThanOthers(t *testing.T) {
	const late = 600 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		asked := false
		s := prepare(t, func(c *httpapi.Config) {
			c.Nodes = fakeNodes{view: func(context.Context) (domain.View, error) {
				<-time.After(late) // an instance may notice so late that it was deposed
				return domain.View{}, ports.ErrNotLeader
			}}
			c.Locator = silentLeader{&asked}
		})
		began := time.Now()
		got := s.handle(t, "GET", "/nodes")
		if code, _ := got.problem(t); got.status != 503 || code != "no_leader" {
			t.Errorf("answer = %d %s, want 503 no_leader", got.status, code)
		}
		if took := time.Since(began); !asked || took > time.Second {
			t.Errorf("the refusal took %v, and the leader was asked for its address = %v, want at most 1s and true", took, asked)
		}
	})
}

// However late it is, a leader that gives its address at once is still asked for it.
func TestALateRefusalStillNamesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t, func(c *httpapi.Config) {
			c.Nodes = fakeNodes{view: func(context.Context) (domain.View, error) {
				<-time.After(2 * time.Second)
				return domain.View{}, ports.ErrNotLeader
			}}
			c.Locator = promptLeader{}
		})
		if got := s.handle(t, "GET", "/nodes"); got.status != 307 || got.header.Get("Location") != "http://n2.test:8080/nodes" {
			t.Errorf("answer = %d %s, want 307 to n2", got.status, got.body)
		}
	})
}

// promptLeader implements ports.LeaderLocator for a leader that gives its address after a
// moment.
type promptLeader struct{}

func (promptLeader) LeaderAddress(ctx context.Context) (string, error) {
	select {
	case <-time.After(50 * time.Millisecond):
		return "n2.test:8080", nil
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", ports.ErrNoLeader, ctx.Err())
	}
}

// silentLeader implements ports.LeaderLocator for a leader that gives no address.
type silentLeader struct{ asked *bool }

func (s silentLeader) LeaderAddress(ctx context.Context) (string, error) {
	*s.asked = true
	<-ctx.Done()
	return "", fmt.Errorf("%w: %w", ports.ErrNoLeader, ctx.Err())
}

func TestAClientThatGoesAwayEndsItsRequest(t *testing.T) {
	asked := make(chan struct{})
	s := start(t, func(c *httpapi.Config) {
		c.Nodes = fakeNodes{view: func(ctx context.Context) (domain.View, error) {
			close(asked)
			<-ctx.Done()
			return domain.View{}, ctx.Err()
		}}
	})
	conn := s.dial(t, "GET /nodes HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	conn.Close()
	eventually(t, "the request is counted as one whose client went away", func() bool {
		return s.metric(t, "nodesmetadata_http_requests_total", "499") == 1
	})
}

func TestAClientThatGoesAwayBeforeItsStreamBeginsIsCountedAsSuch(t *testing.T) {
	asked := make(chan struct{})
	s := start(t, func(c *httpapi.Config) { c.Nodes = unopenedStream{asked: asked} })
	conn := s.dial(t, "GET /nodes/sse HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	conn.Close()
	eventually(t, "the request is counted as one whose client went away", func() bool {
		return s.metric(t, "nodesmetadata_http_requests_total", "/nodes/sse", "499") == 1
	})
}

// unopenedStream implements ports.Nodes with a Follow that returns only after its client
// has gone.
type unopenedStream struct {
	ports.Nodes
	asked chan struct{}
}

func (u unopenedStream) Follow(ctx context.Context, _ *domain.Revision, _ ports.Source) (ports.NodeStream, error) {
	close(u.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAPanicIsOneProblemAndOneLine(t *testing.T) {
	s := start(t, func(c *httpapi.Config) {
		c.Nodes = fakeNodes{view: func(context.Context) (domain.View, error) { panic("ouch") }}
	})
	got := s.do(t, "GET", "/nodes", "")
	if code, detail := got.problem(t); got.status != 500 || code != "internal" || strings.Contains(detail, "ouch") {
		t.Errorf("answer = %d %s, want 500 internal without the panic; detail: %s", got.status, code, detail)
	}
	if log := s.log.String(); strings.Count(log, "ouch") != 1 || strings.Count(log, "level=") != 1 || !strings.Contains(log, "errors_test.go") {
		t.Errorf("log = %s, want the panic once, with its stack", log)
	}
	if got := s.do(t, "GET", "/livez", ""); got.status != 200 {
		t.Errorf("status of livez after the panic = %d, want 200", got.status)
	}
}

func TestAHandlerMayAbortItsConnection(t *testing.T) {
	s := start(t, func(c *httpapi.Config) {
		c.Nodes = fakeNodes{view: func(context.Context) (domain.View, error) { panic(http.ErrAbortHandler) }}
	})
	conn := s.dial(t, "GET /nodes HTTP/1.1\r\nHost: h\r\n\r\n")
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		t.Errorf("answer on an aborted connection = %s, want none", got)
	}
	if log := s.log.String(); log != "" {
		t.Errorf("log of an aborted connection = %s, want none", log)
	}
}
