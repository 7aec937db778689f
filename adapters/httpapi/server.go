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

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// tcpKeepAlive detects in about half a minute that a client has vanished, also one that
// only reads a stream.
var tcpKeepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     15 * time.Second,
	Interval: 5 * time.Second,
	Count:    3,
}

// Server is the application API on one port. Its methods may be called from any
// goroutine.
type Server struct {
	config   Config
	metrics  *metrics
	lists    *listCache
	events   eventCache
	notifier *notifier
	writes   writeLimiter
	conns    *conns.Tracker
	handler  http.Handler

	// stopping ends when the server begins to close.
	stopping context.Context
	stop     context.CancelFunc
	// base is the parent of the contexts of all requests; cancel ends them.
	base   context.Context
	cancel context.CancelFunc
	// serving counts the goroutines that accept connections and run the notifier.
	serving sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener net.Listener
	http     *http.Server
	forced   bool
	handling int           // handlers that run, and hijacked streams
	idle     chan struct{} // closed when handling is 0; nil if nobody waits for that
	streams  map[*eventStream]struct{}
}

// New returns a server that has acquired nothing yet; it has only registered its metrics.
// It reports all that is wrong with config at once.
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
		config:   config,
		metrics:  counted,
		lists:    newListCache(config.Local),
		notifier: newNotifier(config.Local),
		writes:   newWriteLimiter(),
		streams:  map[*eventStream]struct{}{},

		conns: conns.New(conns.Config{
			MaxOpen:      config.MaxConnections,
			MaxPending:   config.MaxPendingConnections,
			PendingGrace: config.PendingGrace,
			Refused:      counted.refused.Inc,
			Displaced:    counted.displaced.Inc,
			LateBody:     fmt.Errorf("%w: the rest of the request did not come in time", ports.ErrClosed),
			Logger:       config.Logger,
		}),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.base, s.cancel = context.WithCancel(context.Background())
	s.handler = s.conns.Handler(s.router())
	return s, nil
}

// Open binds the address and begins to serve. ctx applies only to the binding. Open may be
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
		if err := server.Serve(s.conns.Listener(listener.(*net.TCPListener))); !errors.Is(err, http.ErrServerClosed) {
			s.config.Logger.Error("the application API stopped serving", "address", listener.Addr(), "error", err)
		}
	})
	s.serving.Go(func() { s.notifier.run(s.stopping) })
	return nil
}

func (s *Server) newHTTP() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: http.HandlerFunc(s.handle),
		// OPTIONS * is answered as any other path: net/http would answer it without handle,
		// which establishes the connection.
		DisableGeneralOptionsHandler: true,

		Protocols:         protocols,
		ReadHeaderTimeout: s.config.HeaderTimeout,
		// Before WriteTimeout, so that a client with a slow body still gets an answer.
		ReadTimeout: s.config.RequestTimeout + writeGrace/2,
		// Streams set their own deadline for each write.
		WriteTimeout:   s.config.RequestTimeout + writeGrace,
		IdleTimeout:    s.config.IdleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			// ReadHeaderTimeout does not apply to HTTP/2. But a client in the middle of its
			// headers can't answer a ping, so pings limit that time too, with a fifth of it
			// in reserve for a busy machine.
			SendPingTimeout:  s.config.HeaderTimeout,
			PingTimeout:      min(s.config.HeaderTimeout, (longestTimeout-s.config.HeaderTimeout)*4/5),
			WriteByteTimeout: s.config.StalledTimeout,
		},
		ErrorLog:    slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelWarn),
		ConnState:   s.conns.ConnState,
		ConnContext: s.conns.ConnContext,
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

// Close accepts no more requests. It ends the streams with a comment that says why, and the
// requests that wait for a change. A request whose body has not arrived has a second to
// arrive, and each write of an answer two seconds. All other requests in flight are
// finished. When ctx ends first, Close breaks off what is left and returns ctx's error. In
// either case nothing of the server runs afterwards. It may be called without Open, and
// again.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.stop()
	server := s.http
	for stream := range s.streams {
		stream.shutdown()
	}
	s.mu.Unlock()
	s.conns.BeginShutdown(ctx)
	defer s.cancel()
	if server == nil {
		return nil
	}
	err := server.Shutdown(ctx)
	if err == nil {
		// Shutdown does not wait for hijacked connections.
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
	for stream := range s.streams {
		stream.abort()
	}
	s.mu.Unlock()
	s.cancel()
	_ = server.Close()
}

func (s *Server) isStopping() bool { return s.stopping.Err() != nil }

// handle counts the handlers that run: http.Server.Close does not wait for them.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.forced {
		s.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	s.handling++
	s.mu.Unlock()
	defer s.handlerDone()
	s.handler.ServeHTTP(w, r)
}

// streamStarted counts a stream that goes on when its handler, the caller, has returned.
func (s *Server) streamStarted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handling++
}

func (s *Server) handlerDone() {
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

// allHandled returns a channel that is closed once no handler runs.
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
