package httpapi

import (
	"context"
	"errors"
	"net/http"
	"os"
)

// streamFunc runs a stream from when it is open until it ends, and returns why it ended.
// It must not hold the request: see activeStream.
type streamFunc = func() error

// activeStream is a stream that is open. It holds nothing of the request, whose stack and
// buffers take far more memory than the stream itself.
type activeStream struct {
	out          *eventStream
	call         *measuredCall
	method, path string
}

func (s *Server) serveStream(w http.ResponseWriter, r request, c *measuredCall) {
	out := s.newEventStream(w, r.Request, c.streamMetrics)
	stream := activeStream{out, c, r.Method, r.URL.Path}
	var run streamFunc
	err := s.guard(stream, func() error {
		var err error
		run, err = s.openStream(out, r, c)
		return err
	})
	switch {
	case !out.opened:
		defer s.closeEventStream(out)
		s.refuseStream(w, r, c, err)
	case out.isHijacked():
		s.streamStarted()
		go func() {
			defer s.handlerDone()
			s.runStream(stream, run, err)
		}()
	default:
		s.runStream(stream, run, err)
		if out.broken != nil {
			// The client must not take the end of the response for the end of the stream.
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *Server) openStream(out *eventStream, r request, c *measuredCall) (streamFunc, error) {
	if err := c.check(r.query); err != nil {
		return nil, err
	}
	run, err := c.stream(out, r)
	if r.Method == http.MethodHead && out.opened {
		return nil, nil // the header is the whole answer
	}
	return run, err
}

func (s *Server) refuseStream(w http.ResponseWriter, r request, c *measuredCall, err error) {
	if r.Context().Err() != nil {
		c.metrics.count(statusClientGone)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.config.RequestTimeout)
	defer cancel()
	a := s.answerTo(ctx, r, err)
	_ = s.reply(w, r, &a) // it has no content
	c.metrics.count(a.status)
	drain(w, r, r.Body, drainedBytes)
}

// runStream calls run, unless the stream failed before or run is nil, and ends the stream:
// with a comment that says why, unless it is broken.
func (s *Server) runStream(stream activeStream, run streamFunc, failed error) {
	out := stream.out
	defer s.closeEventStream(out)
	defer stream.call.metrics.count(http.StatusOK)
	err := s.guard(stream, func() error {
		err := failed
		if err == nil && run != nil {
			err = run()
		}
		if err == nil || errors.Is(err, errPanic) || out.broken != nil {
			return err
		}
		return s.finish(out, err)
	})
	if errors.Is(err, errPanic) {
		out.broken = err // it may have stopped in the middle of an event
	}
	if errors.Is(out.broken, os.ErrDeadlineExceeded) {
		out.metrics.cutOff.Inc()
	}
}

// guard calls part, a part of a stream, and turns a panic into errPanic.
func (s *Server) guard(stream activeStream, part func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = s.recovered(stream.method, stream.path, reason)
		}
	}()
	return part()
}
