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

// call is what one method on one path does: exactly one of answer, stream and handler is
// set.
type call struct {
	method string

	// answer returns what to answer, and writes nothing. ctx has the deadline of the
	// request.
	answer decision

	// stream opens out, and returns the function that runs it. An error that it returns
	// before it opened out is answered like any other.
	stream func(out *eventStream, r request) (streamFunc, error)
	name   string // of the stream, in metrics

	// handler is one of a library.
	handler http.Handler

	// params are the query parameters that the call knows.
	params []string
	// uploads: the body may be of any length, and take as long as it keeps arriving.
	uploads bool
	// anyParams: the call ignores parameters that it does not know.
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
		{"/nodes/expire", append(node(withID("expire")), call{method: post, answer: s.expireNodes, params: expireParams})},
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

// withID is for a path that is a word of the API, and may be the id of a node as well.
func withID(id string) func(decision) decision {
	return func(d decision) decision {
		return func(ctx context.Context, r request) (answer, error) {
			chi.RouteContext(r.Context()).URLParams.Add("id", id)
			return d(ctx, r)
		}
	}
}

// resource serves one path. It tells methods apart, and not the router, so that any wrong
// method, also one that the router does not know, is answered with the right ones.
type resource struct {
	server *Server
	calls  map[string]*measuredCall
	allow  string
	refuse *callMetrics
}

// crossOrigin detects requests that a browser sends for a page of another origin. It sends
// them without a preflight request if they look like a form, as a POST without a content
// type does.
var crossOrigin http.CrossOriginProtection

type measuredCall struct {
	call
	metrics       *callMetrics
	streamMetrics *streamMetrics // of a stream
}

func (s *Server) measured(pattern, method string, c call) *measuredCall {
	if c.stream != nil {
		return &measuredCall{call: c, metrics: s.metrics.untimedCall(pattern, method), streamMetrics: s.metrics.stream(c.name)}
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
		s.reject(w, r, res.refuse, res.allow, refuse(errMethod, "%q is not among the methods of this path: %s", r.Method, res.allow))
	case crossOrigin.Check(plain) != nil:
		s.reject(w, r, c.metrics, "", refuse(errCrossOrigin, "a page of another origin must not change anything here (Sec-Fetch-Site: %q, Origin: %q, Host: %q)",
			r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin"), r.Host))
	case c.uploads:
		s.serveUpload(w, r, c)
	case c.answer != nil:
		s.serveAnswer(w, r, c)
	case c.stream != nil:
		s.serveStream(w, r, c)
	default:
		began := time.Now()
		out, done := s.conns.TrackResponse(w, plain)
		c.handler.ServeHTTP(out, plain)
		done()
		c.metrics.observe(http.StatusOK, time.Since(began))
	}
}

// reject answers a request that reaches no call. allow lists the methods of the path if the
// method is why; otherwise it is empty.
func (s *Server) reject(w http.ResponseWriter, r request, m *callMetrics, allow string, err error) {
	began := time.Now()
	a := s.answerTo(r.Context(), r, err)
	a.allow = allow
	_ = s.reply(w, r, &a) // it has no content
	m.observe(a.status, time.Since(began))
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
		s.reject(w, parsed(r), unmatched, "", refuse(errNoRoute, "there is nothing at %q", r.URL.Path))
	}
	router.NotFound(notFound)
	// chi calls this for a method that it does not know, before it looks at the path.
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
