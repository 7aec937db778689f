package peerapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Requests and answers are a few hundred bytes, so a peer needs less time than this.
const (
	headerTimeout = 2 * time.Second
	bodyTimeout   = 2 * time.Second
	writeTimeout  = 2 * time.Second
	// idleTimeout is longer than keepIdle of Client, so that the client closes a
	// connection and no request meets one that the server is closing.
	idleTimeout = 90 * time.Second
	// maxHeaderBytes limits the header of a request; net/http adds 4 KiB.
	maxHeaderBytes = 4 << 10
	// drainTimeout bounds the wait of Close for answers on their way.
	drainTimeout = time.Second
	// proofTimeout is how long a leader may take to prove its leadership. It is less
	// than writeTimeout.
	proofTimeout = time.Second
)

// Config is what a Server needs.
type Config struct {
	// Listener is the lane to serve; New takes it over. Required.
	Listener net.Listener
	// Self, ReadIndexer and Local are called for every answer. Required.
	Self        ports.Self
	ReadIndexer ports.ReadIndexer
	Local       ports.Local
	// Logger logs errors of connections, at debug level: they are mostly the fault
	// of the other side. Nil logs nothing.
	Logger *slog.Logger
}

// Validate reports all that is wrong with c at once.
func (c Config) Validate() error {
	var faults []error
	if c.Listener == nil {
		faults = append(faults, errors.New("no listener"))
	}
	if c.Self == nil {
		faults = append(faults, errors.New("no self"))
	}
	if c.ReadIndexer == nil {
		faults = append(faults, errors.New("no read indexer"))
	}
	if c.Local == nil {
		faults = append(faults, errors.New("no local state"))
	}
	return errors.Join(faults...)
}

// Server answers other instances between Open and Close.
type Server struct {
	listener net.Listener
	http     *http.Server
	running  sync.WaitGroup // the accept loop and every connection
}

// New checks config and returns a Server that serves nothing yet.
func New(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("peerapi: %w", err)
	}
	log := cmp.Or(config.Logger, slog.New(slog.DiscardHandler))
	s := &Server{listener: config.Listener}
	s.http = &http.Server{
		Handler:           routes(config.Self, config.ReadIndexer, config.Local),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + bodyTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         s.follow,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Open starts serving. The context bounds nothing: there is nothing to wait for.
func (s *Server) Open(context.Context) error {
	s.running.Go(func() {
		// Serve ends only because the listener is closed; its error says just that.
		_ = s.http.Serve(s.listener)
	})
	return nil
}

// Close stops serving, closes the listener and waits for every connection to end.
// Answers on their way have until ctx ends, and a second at most. It may be called
// before Open and again.
func (s *Server) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		// Out of time: a client whose answer is cut off asks again.
		err = s.http.Close()
	}
	err = errors.Join(err, s.listener.Close())
	s.running.Wait()
	if err != nil {
		return fmt.Errorf("peerapi: close: %w", err)
	}
	return nil
}

// follow counts connections, because net/http can't wait for their goroutines.
func (s *Server) follow(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew: // called by the accept loop, which is itself counted
		s.running.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.running.Done()
	}
}

func routes(self ports.Self, leader ports.ReadIndexer, local ports.Local) http.Handler {
	router := chi.NewRouter()
	get := func(path string, handle http.HandlerFunc) {
		router.Get(path, handle)
		router.Head(path, handle) // net/http drops the body
	}
	get(metadataPath, func(w http.ResponseWriter, _ *http.Request) {
		identity := self.Identity()
		answer(w, http.StatusOK, "application/json", metadata{
			ApplicationAddress: identity.ApplicationAddress,
			RaftID:             identity.RaftID,
			ClusterID:          identity.ClusterID,
			Version:            identity.Version,
			AppliedIndex:       identity.Applied,
			Format:             uint16(identity.Format),
			Quarantined:        identity.Quarantined,
			Process:            identity.Process,
		})
	})
	get(readIndexPath, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), proofTimeout)
		defer cancel()
		index, err := leader.ReadIndex(ctx)
		if err != nil {
			// Keep the connection open: the client may ask again soon.
			problemAnswer(w, http.StatusServiceUnavailable, notLeader, err.Error())
			return
		}
		identity := self.Identity()
		state, _ := local.State()
		answer(w, http.StatusOK, "application/json", readIndex{
			RaftID:    identity.RaftID,
			ClusterID: identity.ClusterID,
			Index:     index,
			Members:   state.LastCommitted().Roster.IDs(),
		})
	})
	router.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "not_found", "the instance API has only "+metadataPath+" and "+readIndexPath)
	})
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", r.URL.Path+" is only read, with GET")
	})
	return router
}

func refuse(w http.ResponseWriter, status int, code, detail string) {
	// Don't read what follows such a request, such as a body.
	w.Header().Set("Connection", "close")
	problemAnswer(w, status, code, detail)
}

func problemAnswer(w http.ResponseWriter, status int, code, detail string) {
	answer(w, status, "application/problem+json", problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Detail: detail,
		Code:   code,
		Error:  detail,
	})
}

func answer(w http.ResponseWriter, status int, contentType string, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		// Only an identity that is not UTF-8 gets here.
		http.Error(w, "this instance can't say who it is", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A write fails only if the client is gone.
	_, _ = w.Write(encoded)
}
