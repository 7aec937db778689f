package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/prometheus/client_golang/prometheus"
)

// What tests hold against the JSON library, or measure by itself.
var (
	AppendNode   = appendNode
	AppendChange = appendChange
	AppendEvent  = appendEvent

	WriteBackup = writeBackup
	ReadBackup  = readBackup
)

// Handler is what the server serves, for tests without a socket.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.handle) }

// ShutdownReadGrace is how long the rest of a request is waited for when the server closes.
const ShutdownReadGrace = shutdownReadGrace

// ShutdownWriteGrace is how long a write of an answer may take then.
const ShutdownWriteGrace = shutdownWriteGrace

// OpenBodies is how many requests are there whose bodies have not arrived whole.
func (s *Server) OpenBodies() int { return s.requestBodies.len() }

// OpenResponses is how many answers of HTTP/2 have not been taken whole.
func (s *Server) OpenResponses() int { return s.http2Responses.len() }

func (s *transfers) len() (n int) {
	s.active.Range(func(any, any) bool {
		n++
		return true
	})
	return n
}

// Call is one line of the route table.
type Call struct {
	Path, Method string
	Params       []string
	AnyParams    bool
}

// Calls is the route table.
func (s *Server) Calls() []Call {
	var calls []Call
	for _, r := range s.routes() {
		for _, c := range r.calls {
			calls = append(calls, Call{r.pattern, c.method, c.params, c.anyParams})
		}
	}
	return calls
}

// Outcome is how an error may be answered.
type Outcome struct {
	Status int
	Code   string
}

// Outcomes is the table of problems, each once.
func Outcomes() map[Outcome]bool {
	all := map[Outcome]bool{}
	for _, row := range append([]outcome{internal, notLeader}, outcomes...) {
		all[Outcome{row.status, row.code}] = true
	}
	return all
}

// PendingConns are pending connections without a server.
type PendingConns struct{ *pendingConns }

func NewPendingConns(max int) PendingConns {
	return PendingConns{newPendingConns(max, prometheus.NewCounter(prometheus.CounterOpts{}))}
}

func (n PendingConns) Greet(ctx context.Context, conn net.Conn) context.Context {
	return n.connContext(ctx, conn)
}
func (n PendingConns) MakeRoom() { n.makeRoom() }
func (n PendingConns) Close()    { n.close() }
func (n PendingConns) Hear(ctx context.Context) bool {
	return n.admit(httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
}
