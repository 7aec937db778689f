package httpapi

import "net/http"

// Functions and values that tests compare with the JSON library or measure alone.
var (
	AppendNode   = appendNode
	AppendChange = appendChange
	AppendEvent  = appendEvent

	WriteBackup = writeBackup
	ReadBackup  = readBackup
)

// Handler returns the handler of the server, for tests without a socket.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.handle) }

// OpenBodies returns the number of requests whose bodies have not arrived completely.
func (s *Server) OpenBodies() int {
	bodies, _ := s.conns.Unfinished()
	return bodies
}

// OpenResponses returns the number of HTTP/2 responses that were not sent completely.
func (s *Server) OpenResponses() int {
	_, responses := s.conns.Unfinished()
	return responses
}

// Call is one entry of the route table.
type Call struct {
	Path, Method string
	Params       []string
	AnyParams    bool
}

// Calls returns the route table.
func (s *Server) Calls() []Call {
	var calls []Call
	for _, r := range s.routes() {
		for _, c := range r.calls {
			calls = append(calls, Call{r.pattern, c.method, c.params, c.anyParams})
		}
	}
	return calls
}

// Outcome is a status and a problem code with which an error may be answered.
type Outcome struct {
	Status int
	Code   string
}

// Outcomes returns all outcomes of the table of problems.
func Outcomes() map[Outcome]bool {
	all := map[Outcome]bool{}
	for _, row := range append([]outcome{internal, notLeader}, outcomes...) {
		all[Outcome{row.status, row.code}] = true
	}
	return all
}
