package httpapi

import "net/http"

// What tests hold against the JSON library, or measure by itself.
var (
	AppendNode   = appendNode
	AppendChange = appendChange
	AppendEvent  = appendEvent
)

// Handler is what the server serves, for tests without a socket.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.handle) }
