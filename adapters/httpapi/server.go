package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// tcpKeepAlive finds a client that vanished without a word in about half a
// minute, also one that only listens to a stream.
var tcpKeepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     15 * time.Second,
	Interval: 5 * time.Second,
	Count:    3,
}

// Server is the application API on one port. Its methods may be called from any
// goroutine.
type Server struct {
	config  Config
	metrics *metrics
	lists   *listCache
	events  eventCache
	waves   *waves
	turns   turns
	handler http.Handler
	// newcomers are the guests that have asked for nothing yet.
	guests    *guests
	newcomers *newcomers
	// arrivals are the bodies that have not arrived whole, departures the answers of HTTP/2
	// that have not been taken whole.
	arrivals, departures transfers

	// stopping ends when the server begins to close.
	stopping context.Context
	stop     context.CancelFunc
	// base is what the contexts of all requests come from; ending it ends them.
	base   context.Context
	cancel context.CancelFunc
	// serving is done when net/http accepts no more.
	serving sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener net.Listener
	http     *http.Server
	forced   bool
	handling int           // handlers that run, and streams without one
	idle     chan struct{} // closed when handling is 0; nil while nobody waits for that
	sinks    map[*sink]struct{}
}

// New gives a server that holds nothing yet but the names of its metrics. It
// reports all that is wrong with config at once.
func New(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("httpapi: %w", err)
	}
	config = config.withDefaults()
	counted, err := newMetrics(config.Metrics)
	if err != nil {
		return nil, fmt.Errorf("httpapi: %w", err)
	}
	s := &Server{
		config:  config,
		metrics: counted,
		lists:   newListCache(config.Local),
		waves:   newWaves(config.Local),
		turns:   newTurns(),
		sinks:   map[*sink]struct{}{},

		guests:    newGuests(config.MaxConnections, counted.refused, config.Logger),
		newcomers: newNewcomers(config.MaxNewcomers, counted.displaced),
		// When all has been read net/http reads on, only to find out whether the sender has
		// gone, and would take the end of a time for that.
		arrivals:   transfers{set: deadlines.SetReadDeadline, lift: true},
		departures: transfers{set: deadlines.SetWriteDeadline},
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.base, s.cancel = context.WithCancel(context.Background())
	s.handler = s.router()
	return s, nil
}

// Open binds the address and begins to serve. ctx bounds only that. It may be
// called once, and not after Close.
func (s *Server) Open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isStopping() || s.http != nil {
		return errors.New("httpapi: open: it was opened or closed before")
	}
	listen := net.ListenConfig{KeepAliveConfig: tcpKeepAlive}
	listener, err := listen.Listen(ctx, "tcp", s.config.BindAddress)
	if err != nil {
		return fmt.Errorf("httpapi: open: %w", err)
	}
	s.listener, s.http = listener, s.newHTTP()
	server := s.http
	s.serving.Go(func() {
		if err := server.Serve(door{listener.(*net.TCPListener), s.guests, s.newcomers}); !errors.Is(err, http.ErrServerClosed) {
			s.config.Logger.Error("the application API stopped serving", "address", listener.Addr(), "error", err)
		}
	})
	s.serving.Go(func() { s.waves.run(s.stopping) })
	return nil
}

func (s *Server) newHTTP() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(s.handle),
		// OPTIONS * is nothing that is described, and who asks for it is no newcomer any more.
		DisableGeneralOptionsHandler: true,

		Protocols:         protocols,
		ReadHeaderTimeout: s.config.HeaderTimeout,
		// Early enough for the sender of a slow body to be told so.
		ReadTimeout: s.config.RequestTimeout + writeGrace/2,
		// Streams give themselves another deadline for everything they write.
		WriteTimeout:   s.config.RequestTimeout + writeGrace,
		IdleTimeout:    s.config.IdleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			// ReadHeaderTimeout is not for HTTP/2. But a client in the middle of
			// its headers can't answer a ping, so pings bound that time as well, with
			// a fifth of it in hand for a machine that is busy.
			SendPingTimeout:  s.config.HeaderTimeout,
			PingTimeout:      min(s.config.HeaderTimeout, (longestTimeout-s.config.HeaderTimeout)*4/5),
			WriteByteTimeout: s.config.StalledTimeout,
		},
		ErrorLog:    slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelWarn),
		ConnState:   s.connState,
		ConnContext: s.newcomers.greet,
		BaseContext: func(net.Listener) context.Context { return s.base },
	}
}

// Addr is the bound address; nil before Open.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Close takes no more requests, ends the streams with a comment that says why,
// and the waits for a change, gives those who have not sent all of their request a
// second to do so, and those who take nothing of their answer two, and finishes what
// else is in flight. When ctx ends first it breaks off what is left and returns ctx's
// error. In either case nothing of the server runs afterwards. It may be called
// without Open, and again.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.stop()
	server := s.http
	for out := range s.sinks {
		out.hurry()
	}
	s.mu.Unlock()
	// A connection that has asked for nothing is no request in flight, but
	// Shutdown would wait for one for seconds.
	s.newcomers.close()
	arriveBy := time.Now().Add(graceWithin(ctx, arrivalGrace))
	s.arrivals.hurry(func() time.Time { return arriveBy })
	grace := graceWithin(ctx, departureGrace)
	s.departures.hurry(func() time.Time { return time.Now().Add(grace) })
	s.guests.hurry(grace)
	defer s.cancel()
	if server == nil {
		return nil
	}
	err := server.Shutdown(ctx)
	if err == nil {
		// It does not wait for the connections that streams took from it.
		err = s.awaitHandlers(ctx)
	}
	if err != nil {
		err = fmt.Errorf("requests in flight were broken off: %w", err)
		s.force(server)
	}
	s.serving.Wait()
	<-s.allHandled()
	return err
}

func (s *Server) force(server *http.Server) {
	s.mu.Lock()
	s.forced = true
	for out := range s.sinks {
		out.cut()
	}
	s.mu.Unlock()
	s.cancel()
	_ = server.Close()
}

func (s *Server) isStopping() bool { return s.stopping.Err() != nil }

// handle counts the handlers that run. net/http does not wait for them when it
// is closed by force.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if !s.newcomers.arrive(r) {
		panic(http.ErrAbortHandler) // nobody would get the answer
	}
	defer s.newcomers.hear(r.Context())
	s.mu.Lock()
	if s.forced {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.handling++
	s.mu.Unlock()
	defer s.handled()
	if r.Body != http.NoBody {
		body := s.expect(w, r)
		defer body.handled()
		r = r.WithContext(r.Context()) // net/http looks at the body in the request that it gave
		r.Body = body
	}
	s.handler.ServeHTTP(w, r)
}

// going counts a stream that goes on when its handler has returned: the caller is
// that handler.
func (s *Server) going() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handling++
}

func (s *Server) handled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handling--
	if s.handling == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

func (s *Server) awaitHandlers(ctx context.Context) error {
	handled := s.allHandled()
	select {
	case <-handled:
		return nil
	default:
	}
	select {
	case <-handled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// allHandled is closed when no handler runs.
func (s *Server) allHandled() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle != nil {
		return s.idle
	}
	idle := make(chan struct{})
	if s.handling == 0 {
		close(idle)
	} else {
		s.idle = idle
	}
	return idle
}

// connState is told by net/http what becomes of a connection.
func (s *Server) connState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed:
		s.newcomers.leave(conn)
	case http.StateHijacked:
		s.guests.exempt(conn)
	case http.StateIdle:
	default:
		return
	}
	s.arrivals.leave(conn)
}
