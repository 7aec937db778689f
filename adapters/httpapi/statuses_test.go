package httpapi_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// asked is a request that a test changes until the answer is the wanted one.
type asked struct {
	method, path, query, body string
	header                    []string
	slow                      bool // the body does not arrive
}

func (a *asked) target() string {
	if a.query == "" {
		return a.path
	}
	return a.path + "?" + a.query
}

func (a *asked) add(query string) {
	a.query = strings.TrimPrefix(a.query+"&"+query, "&")
}

// examples are requests that succeed, by the id of their operation. a is a node with a time to
// live and b one without, and n2 is a voter beside n1, which leads.
var examples = map[string]asked{
	"listNodes":      {method: "GET", path: "/nodes"},
	"registerNode":   {method: "PUT", path: "/nodes", body: `{"id":"c","address":"10.0.0.3:1"}`},
	"getNode":        {method: "GET", path: "/nodes/a"},
	"putNode":        {method: "PUT", path: "/nodes/c", body: `{"address":"10.0.0.3:1"}`},
	"removeNode":     {method: "DELETE", path: "/nodes/a"},
	"renewNode":      {method: "POST", path: "/nodes/a/heartbeat"},
	"changeNodes":    {method: "POST", path: "/nodes/batch", body: `{"changes":[{"put":{"id":"c","address":"10.0.0.3:1"},"ifRevision":0},{"remove":"a"}]}`},
	"expireNodes":    {method: "POST", path: "/nodes/expire", query: "pool=default"},
	"followNodes":    {method: "GET", path: "/nodes/sse"},
	"putInstance":    {method: "PUT", path: "/raft/node", body: `{"id":"n3","address":"h3:7000"}`},
	"removeInstance": {method: "DELETE", path: "/raft/node/n2"},
	"handOver":       {method: "POST", path: "/raft/leadership", body: `{"id":"n2"}`},
	"getBackup":      {method: "GET", path: "/raft/backup"},
	"restoreBackup":  {method: "POST", path: "/raft/restore", body: emptyBackup},
	"getCluster":     {method: "GET", path: "/raft/metadata"},
	"followCluster":  {method: "GET", path: "/raft/metadata/sse"},
	"isLive":         {method: "GET", path: "/livez"},
	"isReady":        {method: "GET", path: "/readyz"},
	"getVersion":     {method: "GET", path: "/version"},
	"getMetrics":     {method: "GET", path: "/metrics"},
	"getDescription": {method: "GET", path: "/openapi.yaml"},
}

// provocation changes the service or the request so that the answer is a certain one.
type provocation func(t *testing.T, s *service, a *asked)

// failingWith makes the ports return an error.
func failingWith(err error) provocation {
	return func(_ *testing.T, s *service, a *asked) {
		s.instance.FailWith(err)
		// A leader answers heartbeats without its ports for a node that it knows to have
		// time left.
		a.path = strings.Replace(a.path, "/a/heartbeat", "/nobody/heartbeat", 1)
	}
}

func replacing(pairs ...string) provocation {
	return func(_ *testing.T, _ *service, a *asked) {
		replacer := strings.NewReplacer(pairs...)
		a.path, a.body = replacer.Replace(a.path), replacer.Replace(a.body)
	}
}

func alone(t *testing.T, s *service) {
	t.Helper()
	if err := s.instance.Remove(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
}

// provocations has the keys "operation status code" and "status code". An answer that is no
// problem has no code.
var provocations = map[string]provocation{
	"200":              func(*testing.T, *service, *asked) {},
	"registerNode 200": replacing(`"c"`, `"a"`, "10.0.0.3", "10.0.0.1"),
	"putNode 200":      replacing("/c", "/a", "10.0.0.3", "10.0.0.1"),
	"201":              func(*testing.T, *service, *asked) {},
	"304":              func(_ *testing.T, _ *service, a *asked) { a.header = []string{"If-None-Match: *"} },
	"307 not_leader":   func(_ *testing.T, s *service, _ *asked) { s.follow("n2.test:8080") },

	"400 damaged_backup":     func(_ *testing.T, _ *service, a *asked) { a.body = a.body[:len(a.body)-1] },
	"400 invalid_json":       func(_ *testing.T, _ *service, a *asked) { a.body = "{" },
	"400 invalid_request":    func(_ *testing.T, _ *service, a *asked) { a.add("x=1") },
	"403 cross_origin":       func(_ *testing.T, _ *service, a *asked) { a.header = []string{"Sec-Fetch-Site: cross-site"} },
	"404 node_not_found":     replacing("/nodes/a", "/nodes/nobody", `"remove":"a"`, `"remove":"nobody"`),
	"404 instance_not_found": replacing("n2", "n9"),
	"408 request_timeout":    func(_ *testing.T, _ *service, a *asked) { a.slow = true },
	"409 address_in_use":     replacing("10.0.0.3:1", "10.0.0.2:1", "h3:7000", "127.0.0.1:7002"),
	"409 registry_full":      failingWith(&domain.Refusal{Err: domain.ErrRegistryFull, Revision: 2}),
	"409 no_time_to_live":    replacing("/a/heartbeat", "/b/heartbeat"),
	"removeInstance 409 last_voter": func(t *testing.T, s *service, a *asked) {
		alone(t, s)
		a.path = "/raft/node/n1"
	},
	"putInstance 409 last_voter": func(t *testing.T, s *service, a *asked) {
		alone(t, s)
		a.body = `{"id":"n1","address":"127.0.0.1:7000","suffrage":"nonvoter"}`
	},
	"409 id_mismatch":      replacing(`"n3"`, `"n4"`),
	"409 instance_too_old": failingWith(domain.ErrTooOld),
	"409 id_in_use":        failingWith(domain.ErrIDInUse),
	"409 cluster_full":     failingWith(domain.ErrClusterFull),
	"409 no_majority_left": failingWith(ports.ErrNoMajorityLeft),
	"409 other_cluster":    replacing(`"n3"`, `"n9"`, "h3:7000", "h9:7000"),
	"handOver 409 last_voter": func(t *testing.T, s *service, a *asked) {
		alone(t, s)
		a.body = ""
	},
	"409 not_voter": func(t *testing.T, s *service, _ *asked) {
		nonvoter := domain.Instance{ID: "n2", RaftAddress: "127.0.0.1:7002", Suffrage: domain.Nonvoter}
		if err := s.instance.Add(t.Context(), nonvoter); err != nil {
			t.Fatal(err)
		}
	},
	"422 instance_unreachable":            replacing("h3:7000", "h4:7000"),
	"412 precondition_failed":             func(_ *testing.T, _ *service, a *asked) { a.header = []string{`If-Match: "99"`} },
	"changeNodes 412 precondition_failed": replacing(`"ifRevision":0`, `"ifRevision":99`),
	"413 body_too_large":                  func(_ *testing.T, _ *service, a *asked) { a.body = strings.Repeat(" ", smallBody+1) },
	"415 unsupported_media_type":          func(_ *testing.T, _ *service, a *asked) { a.header = []string{"Content-Type: text/plain"} },

	"500 internal": failingWith(errors.New("nobody foresaw it")),

	"isReady 503":         func(_ *testing.T, s *service, _ *asked) { s.loseLeader() },
	"503 no_leader":       func(_ *testing.T, s *service, _ *asked) { s.loseLeader() },
	"503 outcome_unknown": failingWith(ports.ErrOutcomeUnknown),
	"503 busy":            failingWith(ports.ErrBusy),

	"503 upgrade_in_progress": failingWith(ports.ErrUpgrading),
	"503 shutting_down":       failingWith(ports.ErrClosed),
	"503 no_successor":        failingWith(ports.ErrNoSuccessor),
	"503 timeout":             failingWith(context.DeadlineExceeded),
	"503 not_leader": func(_ *testing.T, s *service, a *asked) {
		s.follow("n2.test:8080")
		a.add("redirect=false")
	},
	"503 not_caught_up": func(_ *testing.T, s *service, a *asked) {
		s.instance.Change(func(state *ports.LocalState) { state.CaughtUp = false })
		a.add("consistency=stale")
	},
	"getCluster 503 not_caught_up": failingWith(ports.ErrNotCaughtUp),
	"503 too_stale": func(_ *testing.T, s *service, a *asked) {
		s.instance.Touch(time.Hour)
		a.add("consistency=stale&max_stale=1m")
	},
	"503 revision_not_reached": func(_ *testing.T, _ *service, a *asked) { a.add("min_revision=99&wait=0s") },
}

const smallBody = 256

// TestEverythingDescribedIsAnswered provokes every status and every code that is described
// for an operation.
func TestEverythingDescribedIsAnswered(t *testing.T) {
	unused := maps.Clone(provocations)
	for _, o := range describe(t).operations {
		example, known := examples[o.OperationID]
		if !known {
			t.Errorf("%s has no example request", o.OperationID)
			continue
		}
		for status, ref := range o.Responses.Map() {
			codes := codesOf(t, ref.Value)
			if len(codes) == 0 {
				codes = []string{""}
			}
			for _, code := range codes {
				answer := strings.TrimSpace(status + " " + code)
				name := o.OperationID + " " + answer
				if provocations[name] == nil {
					name = answer
				}
				provoke := provocations[name]
				delete(unused, name)
				if provoke == nil {
					t.Errorf("no provocation makes %s answer %s", o.OperationID, answer)
					continue
				}
				t.Run(o.OperationID+" "+answer, func(t *testing.T) {
					s := start(t, func(c *httpapi.Config) { c.MaxBodyBytes = smallBody })
					s.addSecond(t)
					s.addNeighbours()
					seconds := 30
					s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1", TTLSeconds: &seconds})
					s.register(t, domain.NodeSpec{ID: "b", Address: "10.0.0.2:1"})
					a := example
					provoke(t, s, &a)
					got := s.answer(t, a)
					if fmt.Sprint(got.status) != status {
						t.Fatalf("%s %s: answer = %d %s, want %s", a.method, a.target(), got.status, got.body, status)
					}
					if code == "" {
						return
					}
					if is, _ := got.problem(t); is != code {
						t.Errorf("problem = %s, want the code %s", got.body, code)
					}
				})
			}
		}
	}
	for name := range unused {
		t.Errorf("no operation is described with the answer %q", name)
	}
}

// A read without an ETag ignores conditions, because it has no version that they could name.
func TestIfMatchHoldsForEveryReadWithAnETag(t *testing.T) {
	for _, o := range describe(t).operations {
		example := examples[o.OperationID]
		if example.method != http.MethodGet || strings.HasSuffix(example.path, "/sse") {
			continue
		}
		t.Run(o.OperationID, func(t *testing.T) {
			s := start(t)
			s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1"})
			tag := s.answer(t, example).header.Get("Etag")
			statuses := map[string]int{`"other"`: 200, "*": 200}
			if tag != "" {
				statuses = map[string]int{`"other"`: 412, "*": 200, tag: 200, `"other", ` + tag: 200}
			}
			for named, want := range statuses {
				if got := s.do(t, example.method, example.path, "", "If-Match: "+named); got.status != want {
					t.Errorf("with ETag %s and If-Match: %s the status = %d, want %d", tag, named, got.status, want)
				}
			}
		})
	}
}

// answer sends a and returns the answer; for a stream, its first event.
func (s *service) answer(t *testing.T, a asked) reply {
	t.Helper()
	if a.slow {
		return s.answerSlow(t, a)
	}
	if !strings.HasSuffix(a.path, "/sse") {
		return s.do(t, a.method, a.target(), a.body, a.header...)
	}
	head := s.do(t, http.MethodHead, a.target(), "", a.header...)
	if head.status != http.StatusOK {
		return s.do(t, a.method, a.target(), "", a.header...)
	}
	events := s.stream(t, a.target(), a.header...)
	return reply{events.status, events.header, events.event(t).raw}
}

// answerSlow sends a with a body that takes longer than the server waits for it. It uses no
// socket, because synctest makes that time pass at once.
func (s *service) answerSlow(t *testing.T, a asked) reply {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), a.method, a.target(), failing{os.ErrDeadlineExceeded})
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	got := w.Result()
	if err := describe(t).checkResponse(r, got, w.Body.Bytes()); err != nil {
		t.Error(err)
	}
	return reply{got.StatusCode, got.Header, w.Body.String()}
}

// A stale answer says how old it may be.
func TestStaleAnswersAreAsDescribed(t *testing.T) {
	s := start(t)
	s.register(t, domain.NodeSpec{ID: "a", Address: "10.0.0.1:1"})
	s.follow("n2.test:8080")
	for _, o := range describe(t).operations {
		for _, name := range o.query() {
			if name != "consistency" {
				continue
			}
			a := examples[o.OperationID]
			a.add("consistency=stale")
			if got := s.answer(t, a); got.status != 200 || cmp.Or(got.header.Get("Nodesmetadata-Leader-Contact"), "never") != "0" {
				t.Errorf("%s: answer = %d %v, want 200 with a leader contact of 0", a.target(), got.status, got.header)
			}
		}
	}
}
