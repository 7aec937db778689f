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

// watchedNodes implements ports.Nodes. It sends on asked when a view is requested, and on told
// when the view was returned.
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

// watch returns watched nodes, and a function that puts them into a config.
func watch() (*watchedNodes, func(*httpapi.Config)) {
	w := &watchedNodes{asked: make(chan struct{}, 64), told: make(chan struct{}, 64)}
	return w, func(c *httpapi.Config) { w.Nodes, c.Nodes = c.Nodes, w }
}

// seededList is the list of the seeded registry.
const seededList = `{"a":` + nodeA + `,"b":` + nodeB + `}`

// None of these requests waits: the time that they may wait is longer than patience.
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
		"a list after an older revision":                    {path: "/nodes?since=2&wait=60s", status: 200, body: seededList, etag: `"3"`},
		"a list after revision 0":                           {path: "/nodes?since=0&wait=60s", status: 200, body: seededList, etag: `"3"`},
		"a list of which the client has an older one":       {path: "/nodes?since=2&wait=60s", header: []string{`If-None-Match: "2"`}, status: 200, body: seededList, etag: `"3"`},
		"a list that the client has":                        {path: "/nodes?since=2&wait=60s", header: []string{`If-None-Match: "3"`}, status: 304, etag: `"3"`},
		"a filtered list":                                   {path: "/nodes?since=2&wait=60s&pool=x", status: 200, body: `{}`, etag: `"3"`},
		"a list at the current revision":                    {path: "/nodes?min_revision=3&wait=60s", status: 200, body: seededList, etag: `"3"`},
		"a node at the current revision":                    {path: "/nodes/a?min_revision=3&wait=60s", status: 200, body: nodeA, etag: `"1"`},
		"a node at an older revision":                       {path: "/nodes/b?min_revision=1&wait=60s&consistency=stale", status: 200, body: nodeB, etag: `"3"`},
		"an unknown node at the current revision":           {path: "/nodes/x?min_revision=3&wait=60s", status: 404},
		"a list after one revision and at another":          {path: "/nodes?min_revision=3&since=2&wait=60s&redirect=false", status: 200, body: seededList, etag: `"3"`},
		"a list after the current revision, without a wait": {path: "/nodes?since=3&wait=0s", status: 304, etag: `"3"`},
		"a list after a future revision, without a wait":    {path: "/nodes?since=99&wait=0s", status: 304, etag: `"3"`},
		"a list at a future revision, without a wait":       {path: "/nodes?min_revision=4&wait=0s", status: 503},
		"a node at a future revision, without a wait":       {path: "/nodes/a?min_revision=4&wait=0s", status: 503},
		"a stale node at a future revision, without a wait": {path: "/nodes/a?min_revision=4&wait=0s&consistency=stale", status: 503},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := s.do(t, "GET", test.path, "", test.header...)
			if got.status != test.status || got.header.Get("ETag") != test.etag || test.status < 400 && got.body != test.body {
				t.Errorf("answer = %d with ETag %q: %s, want %d with %q: %s", got.status, got.header.Get("ETag"), got.body, test.status, test.etag, test.body)
			}
			switch test.status {
			case 200, 304:
				if revision := got.header.Get("Nodesmetadata-Revision"); revision != "3" {
					t.Errorf("Nodesmetadata-Revision = %q, want 3", revision)
				}
			case 503:
				if code, _ := got.problem(t); code != "revision_not_reached" || got.header.Get("Retry-After") != "1" {
					t.Errorf("problem = %s, want revision_not_reached with Retry-After: 1", got.body)
				}
				if revision := got.header.Get("Nodesmetadata-Revision"); revision != "3" {
					t.Errorf("Nodesmetadata-Revision = %q, want 3", revision)
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

// ask requests each of paths, and returns when all requests wait for their views.
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
				t.Errorf("answer = %d %v %s, want 200 with the list at revision 4", got.status, got.header, got.body)
			}
		}
		if got := <-one; got.status != 200 || got.body != nodeC {
			t.Errorf("answer = %d %s, want 200 with node c", got.status, got.body)
		}
		// A filtered list waits for the revision of the registry, too.
		if got := <-filtered; got.status != 200 || got.body != "{}" || got.header.Get("ETag") != `"4"` {
			t.Errorf("answer = %d %v %s, want 200 with an empty list at revision 4", got.status, got.header, got.body)
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
			t.Errorf("answer = %d %s, want 200 at revision 6", got.status, got.body)
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

// The default wait is 5 s.
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
				t.Errorf("answer after %v = %d %s, want %d after 5s to 10s", took, got.status, got.body, status)
			}
		})
	}
}

// These answers come when the times of other requests, RequestTimeout and 5 s to write the
// response, would be over.
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
					t.Errorf("answer = %d %s, want 200 with node c at revision 4", got.status, got.body)
				}
			}
			if got := <-over; got.status != 304 || got.header.Get("ETag") != `"4"` {
				t.Errorf("answer = %d %s, want 304 at revision 4", got.status, got.body)
			}
			if got := <-behind; got.status != 503 {
				t.Errorf("answer = %d %s, want 503", got.status, got.body)
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
			eventually(t, "the request is counted as one whose client went away", func() bool {
				return s.metric(t, "nodesmetadata_http_requests_total", "499") == float64(i+1)
			})
		}
	})
}

// closesTelling closes s, and checks that requests that wait are answered with shutting_down.
func closesTelling(t *testing.T, s *service, answers <-chan reply) {
	t.Helper()
	s.closesWithin(t, patience/2)
	for range cap(answers) {
		got := <-answers
		if code, detail := got.problem(t); got.status != 503 || code != "shutting_down" || detail != ports.ErrClosed.Error() || got.header.Get("Retry-After") != "1" {
			t.Errorf("answer = %d %s, want 503 shutting_down with Retry-After: 1", got.status, got.body)
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
		"another instance leads":                     {"", func(s *service) { s.follow("leader.test:8080") }, 307, "not_leader"},
		"another instance leads, with redirect=true": {"&redirect=true", func(s *service) { s.follow("leader.test:8080") }, 307, "not_leader"},
		"nobody leads":                               {"", func(s *service) { s.loseLeader() }, 503, "no_leader"},
		"the instance has lost touch":                {"&redirect=false", lostTouch, 503, "no_leader"},
		"the instance closes":                        {"", func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.Closed = true }) }, 503, "shutting_down"},
		"the instance of a stale read closes":        {"&consistency=stale", func(s *service) { s.instance.Change(func(state *ports.LocalState) { state.Closed = true }) }, 503, "shutting_down"},
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
					t.Errorf("answer = %d %s, want %d %s", got.status, got.body, test.status, test.code)
				}
				if location := got.header.Get("Location"); test.status == 307 && !strings.HasPrefix(location, "http://leader.test:8080/nodes") {
					t.Errorf("redirect to %q, want the leader", location)
				}
			}
		})
	}
}

// atADeposedLeader calls then with requests that wait on a leader that was deposed 0.8 s
// ago. They wait for its successor now.
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
			t.Error("a request was answered before there was a successor")
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
				t.Errorf("answer = %d to %q: %s, want 307 to the successor", got.status, location, got.body)
			}
		}
	})
}

func TestAWaitAtALeaderThatIsDeposedAndStopsSaysThatItStops(t *testing.T) {
	atADeposedLeader(t, closesTelling)
}

// A request waits for a successor no longer than its wait, nor than any other refused request.
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
					t.Errorf("answer = %d %s, want 503 no_leader with Retry-After: 1", got.status, got.body)
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
		"a stale read without a leader": {"&consistency=stale", func(s *service) { s.loseLeader() }},
		"a stale read on an instance that has lost touch": {"&consistency=stale", func(s *service) {
			s.loseLeader()
			s.instance.Change(func(state *ports.LocalState) { state.InTouch = false })
		}},
		"redirect=false without a leader":             {"&redirect=false", func(s *service) { s.loseLeader() }},
		"redirect=false while another instance leads": {"&redirect=false", func(s *service) { s.follow("leader.test:8080") }},
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
					t.Errorf("answer = %d %s, want 200 at revision 4", got.status, got.body)
				}
			}
		})
	}
}
