package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// call is what one method on one path does: exactly one of answer, stream and
// handler is given.
type call struct {
	method string

	// answer says what to answer, and writes nothing. ctx has the deadline of
	// the request.
	answer decision

	// stream opens out, and says how it goes on. An error that it returns before it
	// opened out is answered as any other.
	stream func(out *sink, r request) (course, error)
	name   string // of the stream, in metrics

	// handler is somebody else's.
	handler http.Handler

	// params are the query parameters that the call knows.
	params []string
	// uploads: its body may be of any length, and takes the time that it needs.
	uploads bool
	// anyParams: what the call does not know is none of its business.
	anyParams bool
}

type decision = func(ctx context.Context, r request) (answer, error)

type route struct {
	pattern string
	calls   []call
}

// routes is the whole API.
func (s *Server) routes() []route {
	get, put, post, del := http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete
	exposition := promhttp.HandlerFor(s.config.Metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
	node := func(wrap func(decision) decision) []call {
		return []call{
			{method: get, answer: wrap(s.getNode), params: nodeParams},
			{method: put, answer: wrap(s.putNode), params: writeParams},
			{method: del, answer: wrap(s.deleteNode), params: writeParams},
		}
	}
	return []route{
		{"/nodes", []call{
			{method: get, answer: s.getNodes, params: listParams},
			{method: put, answer: s.putNodes, params: writeParams},
		}},
		{"/nodes/{id}", node(func(d decision) decision { return d })},
		{"/nodes/{id}/heartbeat", []call{{method: post, answer: s.renewNode, params: writeParams}}},
		{"/nodes/batch", []call{{method: post, answer: s.batchNodes, params: writeParams}}},
		{"/nodes/expire", append(node(named("expire")), call{method: post, answer: s.expireNodes, params: expireParams})},
		{"/nodes/sse", []call{{method: get, stream: s.followNodes, name: nodeStream, params: streamParams}}},
		{"/raft/node", []call{{method: put, answer: s.putInstance, params: addParams}}},
		{"/raft/node/{id}", []call{{method: del, answer: s.deleteInstance, params: writeParams}}},
		{"/raft/leadership", []call{{method: post, answer: s.handOver, params: writeParams}}},
		{"/raft/backup", []call{{method: get, answer: s.getBackup, params: sourceParams}}},
		{"/raft/restore", []call{{method: post, answer: s.restore, params: writeParams, uploads: true}}},
		{"/raft/metadata", []call{{method: get, answer: s.getCluster, params: sourceParams}}},
		{"/raft/metadata/sse", []call{{method: get, stream: s.followCluster, name: clusterStream, params: sourceParams}}},
		{"/livez", []call{{method: get, answer: s.livez, anyParams: true}}},
		{"/readyz", []call{{method: get, answer: s.readyz, anyParams: true}}},
		{"/version", []call{{method: get, answer: s.version, anyParams: true}}},
		{"/metrics", []call{{method: get, handler: exposition, anyParams: true}}},
		{"/openapi.yaml", []call{{method: get, answer: s.openapi, anyParams: true}}},
	}
}

// named is for paths that are a word of the API, and the id of a node that bears
// it as well.
func named(id string) func(decision) decision {
	return func(d decision) decision {
		return func(ctx context.Context, r request) (answer, error) {
			chi.RouteContext(r.Context()).URLParams.Add("id", id)
			return d(ctx, r)
		}
	}
}

// resource serves one path. It, and not the router, tells methods apart: so
// that a wrong one is told the right ones, whatever it is.
type resource struct {
	server *Server
	calls  map[string]*measuredCall
	allow  string
	refuse *callMetrics
}

// crossOrigin finds what a browser sends for a page of another origin, which it sends without
// asking where it looks like a form: a POST without a content type does.
var crossOrigin http.CrossOriginProtection

type measuredCall struct {
	call
	metrics *callMetrics
	sink    *sinkMetrics // of a stream
}

func (s *Server) measured(pattern, method string, c call) *measuredCall {
	if c.stream != nil {
		return &measuredCall{call: c, metrics: s.metrics.untimedCall(pattern, method), sink: s.metrics.sink(c.name)}
	}
	return &measuredCall{call: c, metrics: s.metrics.call(pattern, method)}
}

func (s *Server) resource(r route) *resource {
	res := &resource{server: s, calls: map[string]*measuredCall{}, refuse: s.metrics.call(r.pattern, "other")}
	var methods []string
	for _, c := range r.calls {
		methods = append(methods, c.method)
		res.calls[c.method] = s.measured(r.pattern, c.method, c)
		if c.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
			res.calls[http.MethodHead] = s.measured(r.pattern, http.MethodHead, c)
		}
	}
	slices.Sort(methods)
	res.allow = strings.Join(methods, ", ")
	return res
}

func (res *resource) ServeHTTP(w http.ResponseWriter, plain *http.Request) {
	s, r := res.server, parsed(plain)
	c, known := res.calls[r.Method]
	switch {
	case !known:
		s.turnAway(w, r, res.refuse, res.allow, refuse(errMethod, "%q is not among the methods of this path: %s", r.Method, res.allow))
	case crossOrigin.Check(plain) != nil:
		s.turnAway(w, r, c.metrics, "", refuse(errCrossOrigin, "a page of another origin must not change anything here (Sec-Fetch-Site: %q, Origin: %q, Host: %q)",
			r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin"), r.Host))
	case c.uploads:
		s.serveUpload(w, r, c)
	case c.answer != nil:
		s.serveAnswer(w, r, c)
	case c.stream != nil:
		s.serveStream(w, r, c)
	default:
		began := time.Now()
		out, done := s.depart(w, r)
		c.handler.ServeHTTP(out, plain)
		done()
		c.metrics.answered(http.StatusOK, time.Since(began))
	}
}

// turnAway answers who can't be asking for anything that there is. allow are the methods
// that there are, where it is for the method.
func (s *Server) turnAway(w http.ResponseWriter, r request, m *callMetrics, allow string, err error) {
	began := time.Now()
	a := s.answerTo(r.Context(), r, err)
	a.allow = allow
	_ = s.reply(w, r, &a) // it has no content
	m.answered(a.status, time.Since(began))
	drain(w, r, r.Body, drainedBytes)
}

func (s *Server) router() http.Handler {
	router := chi.NewRouter()
	resources := map[string]*resource{}
	for _, r := range s.routes() {
		resources[r.pattern] = s.resource(r)
		router.Handle(r.pattern, resources[r.pattern])
	}
	unmatched := s.metrics.call("unmatched", "any")
	notFound := func(w http.ResponseWriter, r *http.Request) {
		s.turnAway(w, parsed(r), unmatched, "", refuse(errNoRoute, "there is nothing at %q", r.URL.Path))
	}
	router.NotFound(notFound)
	// chi asks for this where it has never heard of a method, and has not looked
	// at the path then.
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		pattern := router.Find(chi.NewRouteContext(), http.MethodGet, r.URL.EscapedPath())
		if res, known := resources[pattern]; known {
			res.ServeHTTP(w, r)
			return
		}
		notFound(w, r)
	})
	return router
}
