package httpapi

import (
	"context"
	"errors"
	"net/http"
	"os"
)

// course is what a stream does from when it is open until it ends. It returns why
// it ended. It must not hold the request: see running.
type course = func() error

// running is a stream that is open. It holds nothing of the request: beside what a
// stream needs, the stack and the buffers that net/http has for one are a lot.
type running struct {
	out          *sink
	call         *measuredCall
	method, path string
}

func (s *Server) serveStream(w http.ResponseWriter, r request, c *measuredCall) {
	out := s.newSink(w, r.Request, c.sink)
	stream := running{out, c, r.Method, r.URL.Path}
	var run course
	err := s.guard(stream, func() error {
		var err error
		run, err = s.openStream(out, r, c)
		return err
	})
	switch {
	case !out.opened:
		defer s.endSink(out)
		s.refuseStream(w, r, c, err)
	case out.hasConn():
		s.going()
		go func() {
			defer s.handled()
			s.runStream(stream, run, err)
		}()
	default:
		s.runStream(stream, run, err)
		if out.broken != nil {
			// The end of a response would look like the end of a stream.
			panic(http.ErrAbortHandler)
		}
	}
}

func (s *Server) openStream(out *sink, r request, c *measuredCall) (course, error) {
	if err := c.check(r.query); err != nil {
		return nil, err
	}
	run, err := c.stream(out, r)
	if r.Method == http.MethodHead && out.opened {
		return nil, nil // that was all
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

// runStream lets stream take its course, unless it failed already or there is none,
// and ends it: with last words, unless it is broken.
func (s *Server) runStream(stream running, run course, failed error) {
	out := stream.out
	defer s.endSink(out)
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
		out.broken = err // it may have stopped anywhere
	}
	if errors.Is(out.broken, os.ErrDeadlineExceeded) {
		out.metrics.cutOff.Inc()
	}
}

// guard calls part, a part of a stream, and makes an error of its panic.
func (s *Server) guard(stream running, part func() error) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = s.recovered(stream.method, stream.path, reason)
		}
	}()
	return part()
}
