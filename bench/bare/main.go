// Command bare measures the cost of HTTP alone, as a bound: a net/http server
// without a registry and without consensus. It reads the same requests as a real
// server, and answers with the bytes that a real server gave.
//
//	POST /set        keep these answers: an object from path to body
//	GET  /PATH       the bytes that are kept
//	PUT  /PATH       decode the body, tell all streams, answer with the bytes that are kept for PATH
//	GET  /nodes/sse  a stream of what was PUT from now on
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: bare ADDRESS")
	}
	s := &server{kept: map[string][]byte{}, grown: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /set", s.set)
	mux.HandleFunc("GET /nodes/sse", s.stream)
	mux.HandleFunc("GET /", s.get)
	mux.HandleFunc("PUT /", s.put)
	log.Fatal(http.ListenAndServe(os.Args[1], mux))
}

// server stores the answers and the log of its streams. The log holds all events
// contiguously, so a stream is only a position in it.
type server struct {
	mu       sync.RWMutex
	kept     map[string][]byte
	revision int64
	log      []byte
	streams  int           // number of streams that read the log; the log is empty if there are none
	grown    chan struct{} // closed when the log grows
}

func (s *server) set(w http.ResponseWriter, r *http.Request) {
	var answers map[string]json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&answers); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, body := range answers {
		s.kept[path] = body
	}
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	body, revision := s.kept[r.URL.Path], s.revision
	s.mu.RUnlock()
	answer(w, body, revision)
}

type node struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Zone    string `json:"zone"`
	Weight  int    `json:"weight"`
}

func (s *server) put(w http.ResponseWriter, r *http.Request) {
	var n node
	if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	body := s.kept[r.URL.Path]
	s.revision++
	revision := s.revision
	if s.streams == 0 {
		s.log = s.log[:0]
	}
	s.log = fmt.Appendf(s.log, "event: updated\nid: %d\ndata: {\"revision\":%d,\"type\":\"updated\",\"node\":%s,\"previous\":%s,\"reason\":\"request\"}\n\n",
		revision, revision, body, body)
	close(s.grown)
	s.grown = make(chan struct{})
	s.mu.Unlock()
	answer(w, body, revision)
}

func answer(w http.ResponseWriter, body []byte, revision int64) {
	if body == nil {
		http.Error(w, "nothing is kept here", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Nodesmetadata-Revision", strconv.FormatInt(revision, 10))
	_, _ = w.Write(body)
}

func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.streams++
	position := len(s.log)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams--
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	for {
		if flusher.Flush() != nil {
			return
		}
		s.mu.RLock()
		pending, grown := s.log[position:], s.grown
		s.mu.RUnlock()
		if len(pending) == 0 {
			select {
			case <-grown:
			case <-r.Context().Done():
				return
			}
			continue
		}
		if _, err := w.Write(pending); err != nil {
			return
		}
		position += len(pending)
	}
}
