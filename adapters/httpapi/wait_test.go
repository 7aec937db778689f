package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// watchedNodes is ports.Nodes that says on asked when a view is asked for, and
// on told when it was given.
type watchedNodes struct {
	ports.Nodes
	asked, told chan struct{}
}

func (w *watchedNodes) View(ctx context.Context, read ports.Read) (domain.View, error) {
	w.asked <- struct{}{}
	view, err := w.Nodes.View(ctx, read)
	w.told <- struct{}{}
	return view, err
}

// watch puts watched nodes into a config.
func watch() (*watchedNodes, func(*httpapi.Config)) {
	w := &watchedNodes{asked: make(chan struct{}, 64), told: make(chan struct{}, 64)}
	return w, func(c *httpapi.Config) { w.Nodes, c.Nodes = c.Nodes, w }
}

// seededList is the list of the registry that seed makes.
const seededList = `{"a":` + nodeA + `,"b":` + nodeB + `}`

// None of these waits: the time that they may take is longer than the test is
// patient.
func TestARevisionThatIsReachedIsNotWaitedFor(t *testing.T) {
	s := start(t)
	seed(t, s)
	tests := map[string]struct {
		path   string
		header []string
		status int
		body   string
		etag   string
	}{
		"a list after an older revision":        {path: "/nodes?since=2&wait=60s", status: 200, body: seededList, etag: `"3"`},
		"a list after nothing":                  {path: "/nodes?since=0&wait=60s", status: 200, body: seededList, etag: `"3"`},
		"a list that another tag is known of":   {path: "/nodes?since=2&wait=60s", header: []string{`If-None-Match: "2"`}, status: 200, body: seededList, etag: `"3"`},
		"a list that is known":                  {path: "/nodes?since=2&wait=60s", header: []string{`If-None-Match: "3"`}, status: 304, etag: `"3"`},
		"a filtered list":                       {path: "/nodes?since=2&wait=60s&pool=x", status: 200, body: `{}`, etag: `"3"`},
		"the revision that there is":            {path: "/nodes?min_revision=3&wait=60s", status: 200, body: seededList, etag: `"3"`},
		"the revision that there is, of a node": {path: "/nodes/a?min_revision=3&wait=60s", status: 200, body: nodeA, etag: `"1"`},
		"a revision that was":                   {path: "/nodes/b?min_revision=1&wait=60s&consistency=stale", status: 200, body: nodeB, etag: `"3"`},
		"a node that is not there":              {path: "/nodes/x?min_revision=3&wait=60s", status: 404},
		"both":                                  {path: "/nodes?min_revision=3&since=2&wait=60s&redirect=false", status: 200, body: seededList, etag: `"3"`},
		"nothing new, without a wait":           {path: "/nodes?since=3&wait=0s", status: 304, etag: `"3"`},
		"a revision to come, without a wait":    {path: "/nodes?since=99&wait=0s", status: 304, etag: `"3"`},
		"a revision not reached":                {path: "/nodes?min_revision=4&wait=0s", status: 503},
		"a revision not reached, of a node":     {path: "/nodes/a?min_revision=4&wait=0s", status: 503},
		"one not reached, stale":                {path: "/nodes/a?min_revision=4&wait=0s&consistency=stale", status: 503},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := s.do(t, "GET", test.path, "", test.header...)
			if got.status != test.status || got.header.Get("ETag") != test.etag || test.status < 400 && got.body != test.body {
				t.Errorf("got %d %q %s", got.status, got.header.Get("ETag"), got.body)
			}
			switch test.status {
			case 200, 304:
				if revision := got.header.Get("Nodesmetadata-Revision"); revision != "3" {
					t.Errorf("revision is %q", revision)
				}
			case 503:
				if code, _ := got.problem(t); code != "revision_not_reached" || got.header.Get("Retry-After") != "1" {
					t.Errorf("got %s", got.body)
				}
				if revision := got.header.Get("Nodesmetadata-Revision"); revision != "3" {
					t.Errorf("revision is %q", revision)
				}
			}
		})
	}
}

// overEachHTTP runs a test over HTTP/1.1 and HTTP/2.
func overEachHTTP(t *testing.T, test func(*testing.T, *service, *watchedNodes)) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			nodes, watched := watch()
			s := start(t, watched)
			if version == "HTTP/2.0" {
				s.useHTTP2()
			}
			seed(t, s)
			test(t, s, nodes)
		})
	}
}

// ask asks for each of paths, and returns when all are waiting for their views.
func (s *service) ask(t *testing.T, nodes *watchedNodes, paths ...string) <-chan reply {
	t.Helper()
	answers := make(chan reply, len(paths))
	for _, path := range paths {
		go func() {
			var got reply
			defer func() { answers <- got }() // also when s.do fails the test
			got = s.do(t, "GET", path, "")
		}()
		<-nodes.asked
	}
	return answers
}

func TestAWaitEndsWithTheChange(t *testing.T) {
	overEachHTTP(t, func(t *testing.T, s *service, nodes *watchedNodes) {
		answers := s.ask(t, nodes, "/nodes?since=3&wait=60s", "/nodes?min_revision=4&wait=60s",
			"/nodes?since=3&wait=60s&redirect=false", "/nodes?since=3&wait=60s&consistency=stale&max_stale=1s")
		lists := cap(answers)
		one := s.ask(t, nodes, "/nodes/c?min_revision=4&wait=60s")
		filtered := s.ask(t, nodes, "/nodes?since=3&wait=60s&label=a=b")
		select {
		case <-nodes.told:
			t.Error("the wait was answered before a change")
		default:
		}
		s.register(t, domain.NodeSpec{ID: "c", Address: "10.0.0.3:1"})
		want := seededList[:len(seededList)-1] + `,"c":` + nodeC + `}`
		for range lists {
			if got := <-answers; got.status != 200 || got.body != want || got.header.Get("ETag") != `"4"` || got.header.Get("Nodesmetadata-Revision") != "4" {
				t.Errorf("got %d %v %s", got.status, got.header, got.body)
			}
		}
		if got := <-one; got.status != 200 || got.body != nodeC {
			t.Errorf("got %d %s", got.status, got.body)
		}
		// It is the registry's revision that is waited for.
		if got := <-filtered; got.status != 200 || got.body != "{}" || got.header.Get("ETag") != `"4"` {
			t.Errorf("got %d %v %s", got.status, got.header, got.body)
		}
	})
}

func TestAWaitForSeveralChangesGoesOnToTheLast(t *testing.T) {
	nodes, watched := watch()
	s := start(t, watched)
	seed(t, s)
	answers := s.ask(t, nodes, "/nodes?min_revision=6&wait=60s", "/nodes?since=5&wait=60s")
	for weight := range 3 {
		if len(nodes.told) > 0 {
			t.Errorf("the wait was answered after %d changes", weight)
		}
		s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1", Weight: &weight})
	}
	for range cap(answers) {
		if got := <-answers; got.status != 200 || got.header.Get("ETag") != `"6"` {
			t.Errorf("got %d %s", got.status, got.body)
		}
	}
}

func TestAWaitWithoutAChangeIsAnsweredAtItsEnd(t *testing.T) {
	t.Parallel()
	const wait = 200 * time.Millisecond
	overEachHTTP(t, func(t *testing.T, s *service, _ *watchedNodes) {
		for path, status := range map[string]int{
			"/nodes?since=3&wait=200ms":                           304,
			"/nodes?since=3&wait=200ms&pool=default":              304,
			"/nodes?since=3&wait=200ms&redirect=false":            304,
			"/nodes?since=3&wait=200ms&consistency=stale":         304,
			"/nodes?min_revision=4&wait=200ms":                    503,
			"/nodes/a?min_revision=4&wait=200ms":                  503,
			"/nodes?since=3&min_revision=3&wait=200ms":            304,
			"/nodes?since=2&min_revision=4&wait=200ms":            503,
			"/nodes/a?min_revision=4&wait=0.2s&consistency=stale": 503,
		} {
			began := time.Now()
			got := s.do(t, "GET", path, "")
			if took := time.Since(began); got.status != status || took < wait {
				t.Errorf("%s: answer after %v = %d %s, want %d after %v", path, took, got.status, got.body, status, wait)
			}
			if status == 304 {
				if got.header.Get("ETag") != `"3"` || got.header.Get("Nodesmetadata-Revision") != "3" || got.body != "" {
					t.Errorf("%s: headers = %v, want revision 3 without a body", path, got.header)
				}
				continue
			}
			if code, _ := got.problem(t); code != "revision_not_reached" || got.header.Get("Retry-After") != "1" {
				t.Errorf("%s: answer = %s, want revision_not_reached with Retry-After: 1", path, got.body)
			}
		}
	})
}

// A wait that is not said is 5 s long.
func TestAWaitHasADefault(t *testing.T) {
	t.Parallel()
	for path, status := range map[string]int{"/nodes?since=3": 304, "/nodes/a?min_revision=4": 503} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			seed(t, s)
			began := time.Now()
			got := s.do(t, "GET", path, "")
			if took := time.Since(began); got.status != status || took < 5*time.Second || took > 10*time.Second {
				t.Errorf("after %v came %d %s", took, got.status, got.body)
			}
		})
	}
}

// The times that other requests have, RequestTimeout and 5 s to write the
// response, are over when these are answered.
func TestAWaitMayBeLongerThanOtherRequests(t *testing.T) {
	t.Parallel()
	const ordinary = time.Second + 5*time.Second
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			nodes, watched := watch()
			s := start(t, watched, func(c *httpapi.Config) { c.RequestTimeout = ordinary - 5*time.Second })
			if version == "HTTP/2.0" {
				s.useHTTP2()
			}
			seed(t, s)
			over := s.ask(t, nodes, "/nodes?since=4&wait=9s")
			behind := s.ask(t, nodes, "/nodes?min_revision=5&wait=9s")
			answers := s.ask(t, nodes, "/nodes?since=3&wait=60s", "/nodes?min_revision=4&wait=60s")
			<-time.After(ordinary + 200*time.Millisecond)
			s.register(t, domain.NodeSpec{ID: "c", Address: "10.0.0.3:1"})
			for range cap(answers) {
				if got := <-answers; got.status != 200 || got.header.Get("ETag") != `"4"` || !strings.Contains(got.body, nodeC) {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
			if got := <-over; got.status != 304 || got.header.Get("ETag") != `"4"` {
				t.Errorf("got %d %s", got.status, got.body)
			}
			if got := <-behind; got.status != 503 {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
}

func TestAWaitEndsWhenItsClientGoes(t *testing.T) {
	overEachHTTP(t, func(t *testing.T, s *service, nodes *watchedNodes) {
		for i, path := range []string{"/nodes?since=3&wait=60s", "/nodes?min_revision=4&wait=60s"} {
			ctx, cancel := context.WithCancel(t.Context())
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			gone := make(chan error)
			go func() {
				response, err := s.client.Do(request)
				if err == nil {
					response.Body.Close()
				}
				gone <- err
			}()
			<-nodes.asked
			cancel()
			if err := <-gone; err == nil {
				t.Error("the wait was answered although its client had gone")
			}
			<-nodes.told
			eventually(t, "it is counted as one whose client went away", func() bool {
				return s.metric(t, "nodesmetadata_http_requests_total", "499") == float64(i+1)
			})
		}
	})
}

// closesTelling closes s, and checks that requests that wait are answered so.
func closesTelling(t *testing.T, s *service, answers <-chan reply) {
	t.Helper()
	s.closesWithin(t, patience/2)
	for range cap(answers) {
		got := <-answers
		if code, detail := got.problem(t); got.status != 503 || code != "shutting_down" || detail != ports.ErrClosed.Error() || got.header.Get("Retry-After") != "1" {
			t.Errorf("got %d %s", got.status, got.body)
		}
	}
}

func TestCloseEndsWaits(t *testing.T) {
	overEachHTTP(t, func(t *testing.T, s *service, nodes *watchedNodes) {
		answers := s.ask(t, nodes, "/nodes?since=3&wait=60s", "/nodes?min_revision=4&wait=60s", "/nodes/a?min_revision=4&wait=60s",
			"/nodes?since=3&wait=60s&redirect=false", "/nodes?since=3&wait=60s&consistency=stale")
		closesTelling(t, s, answers)
	})
}

func TestAWaitEndsWhenItsInstanceCannotAnswerIt(t *testing.T) {
	lostTouch := func(s *service) {
		s.instance.Change(func(state *ports.LocalState) {
			state.Leading, state.InTouch, state.LeaderID, state.LeaderRaftAddress = false, false, "", ""
		})
	}
	tests := map[string]struct {
		query  string
		change func(*service)
		status int
		code   string
	}{
		"another leads":               {"", func(s *service) { s.follow("leader.test:8080") }, 307, "not_leader"},
		"another leads, asked to":     {"&redirect=true", func(s *service) { s.follow("leader.test:8080") }, 307, "not_leader"},
		"nobody leads":                {"", func(s *service) { s.loseLeader() }, 503, "no_leader"},
		"it has lost touch":           {"&redirect=false", lostTouch, 503, "no_leader"},
		"it closes":                   {"", func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.Closed = true }) }, 503, "shutting_down"},
		"it closes, and serves stale": {"&consistency=stale", func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.Closed = true }) }, 503, "shutting_down"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			nodes, watched := watch()
			s := start(t, watched)
			seed(t, s)
			answers := s.ask(t, nodes, "/nodes?since=3&wait=60s"+test.query, "/nodes/a?min_revision=4&wait=60s"+test.query)
			test.change(s)
			for range cap(answers) {
				got := <-answers
				if code, _ := got.problem(t); got.status != test.status || code != test.code {
					t.Errorf("got %d %s", got.status, got.body)
				}
				if location := got.header.Get("Location"); test.status == 307 && !strings.HasPrefix(location, "http://leader.test:8080/nodes") {
					t.Errorf("redirect to %q, want the leader", location)
				}
			}
		})
	}
}

// atADeposedLeader has requests wait at a leader that is deposed, and after that for its
// successor, which they do for nearly a second.
func atADeposedLeader(t *testing.T, then func(t *testing.T, s *service, answers <-chan reply)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t)
		seed(t, s)
		answers := make(chan reply, 2)
		for _, path := range []string{"/nodes?since=3&wait=60s", "/nodes/a?min_revision=4&wait=60s"} {
			go func() { answers <- s.handle(t, "GET", path) }()
		}
		<-time.After(10 * time.Second)
		s.loseLeader()
		<-time.After(800 * time.Millisecond)
		if len(answers) > 0 {
			t.Error("a successor is not waited for")
		}
		then(t, s, answers)
	})
}

// A leader that hands over has no successor for a moment.
func TestAWaitAtALeaderThatIsDeposedEndsAtItsSuccessor(t *testing.T) {
	atADeposedLeader(t, func(t *testing.T, s *service, answers <-chan reply) {
		s.follow("leader.test:8080")
		for range cap(answers) {
			got := <-answers
			if location := got.header.Get("Location"); got.status != 307 || !strings.HasPrefix(location, "http://leader.test:8080/nodes") {
				t.Errorf("got %d to %q: %s", got.status, location, got.body)
			}
		}
	})
}

func TestAWaitAtALeaderThatIsDeposedAndStopsSaysThatItStops(t *testing.T) {
	atADeposedLeader(t, closesTelling)
}

// It waits no longer than it was asked to, nor than any other waits for a refusal.
func TestAWaitForASuccessorIsShort(t *testing.T) {
	for query, longest := range map[string]time.Duration{"wait=60s": time.Second, "wait=1ms": 200 * time.Millisecond} {
		t.Run(query, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := prepare(t)
				seed(t, s)
				s.loseLeader()
				began := time.Now()
				got := s.handle(t, "GET", "/nodes?since=3&"+query)
				if code, _ := got.problem(t); got.status != 503 || code != "no_leader" || got.header.Get("Retry-After") != "1" {
					t.Errorf("got %d %s", got.status, got.body)
				}
				if took := time.Since(began); took > longest {
					t.Errorf("the wait took %v, want at most %v", took, longest)
				}
			})
		})
	}
}

// A stale read waits even if nothing new can come, and a read with redirect=false waits
// through a change of leader.
func TestAWaitSurvivesChangesThatDoNotConcernIt(t *testing.T) {
	tests := map[string]struct {
		query  string
		change func(*service)
	}{
		"stale, without a leader": {"&consistency=stale", func(s *service) { s.loseLeader() }},
		"stale, out of touch": {"&consistency=stale", func(s *service) {
			s.loseLeader()
			s.instance.Change(func(state *ports.LocalState) { state.InTouch = false })
		}},
		"here, without a leader":    {"&redirect=false", func(s *service) { s.loseLeader() }},
		"here, while another leads": {"&redirect=false", func(s *service) { s.follow("leader.test:8080") }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			nodes, watched := watch()
			s := start(t, watched)
			seed(t, s)
			answers := s.ask(t, nodes, "/nodes?since=3&wait=60s"+test.query, "/nodes?min_revision=4&wait=60s"+test.query)
			test.change(s)
			if len(nodes.told) > 0 {
				t.Error("the wait ended, want it to go on")
			}
			s.lead()
			s.register(t, domain.NodeSpec{ID: "c", Address: "10.0.0.3:1"})
			for range cap(answers) {
				if got := <-answers; got.status != 200 || got.header.Get("ETag") != `"4"` {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
		})
	}
}
