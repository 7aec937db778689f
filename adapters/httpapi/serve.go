package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi/conns"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// errPanic stands for a panic that has been logged.
var errPanic = errors.New(ownFault)

func (s *Server) serveAnswer(w http.ResponseWriter, r request, c *measuredCall) {
	began, body := time.Now(), r.Body
	wait := c.waitOf(r.query)
	ctx, cancel := context.WithTimeout(r.Context(), wait+s.config.RequestTimeout)
	defer cancel()
	if wait > 0 {
		// If it fails, the response keeps its usual deadline.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + s.config.RequestTimeout + writeGrace))
		// Close must not take as long as a request may want to wait.
		defer context.AfterFunc(s.stopping, cancel)()
	}
	a, err := s.decide(ctx, w, r, c)
	if wait > 0 && errors.Is(err, ports.ErrNotLeader) {
		err = s.awaitSuccessor(ctx, min(refusedWithin, wait-time.Since(began)))
	}
	if wait > 0 && errors.Is(err, context.Canceled) && s.isStopping() {
		err = ports.ErrClosed
	}
	if err != nil {
		a = s.answerInTime(ctx, began, r, err)
	}
	if r.query.isStale() && c.knows(paramConsistency) {
		a.leaderContact = s.leaderContact()
	}
	s.send(w, r, c, a, began)
	if err != nil {
		drain(w, r, body, drainedBytes)
	}
}

// How much of the body of a refused request is read and discarded: drainedBackup for a
// restore, drainedBytes for every other call.
const (
	drainedBytes  = 16 << 20
	drainedBackup = 1 << 30
)

// drain reads what is left of an HTTP/1 body once the refusal of its request is written,
// for as long as a body may take to arrive. net/http would read 256 KiB of it and close
// the connection, and a client that sends the whole body before it reads would get a
// write error instead of the answer. A client that waits for 100 Continue sends no body
// after a refusal.
func drain(w http.ResponseWriter, r request, body io.Reader, limit int64) {
	rest, tracked := body.(interface{ IsFinished() bool }) // http.NoBody is not
	if !tracked || rest.IsFinished() || r.ProtoMajor != 1 || r.Header.Get("Expect") != "" {
		return
	}
	if http.NewResponseController(w).Flush() == nil {
		_, _ = io.CopyN(io.Discard, body, limit)
	}
}

// serveUpload is serveAnswer for a body of any length.
func (s *Server) serveUpload(w http.ResponseWriter, r request, c *measuredCall) {
	began := time.Now()
	control := http.NewResponseController(w)
	// If it fails, the response keeps its usual deadline.
	_ = control.SetWriteDeadline(time.Time{})
	body, tracked := r.Body.(*conns.Body)
	if tracked {
		body.Establish()
		r.Body = &upload{Body: body}
	}
	a, err := s.decide(r.Context(), w, r, c)
	if err != nil {
		if tracked && !body.IsFinished() && r.ProtoMajor == 1 {
			// Otherwise net/http would read what is left of the body before it answers.
			w.Header().Set("Connection", "close")
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.config.RequestTimeout)
		defer cancel()
		a = s.answerTo(ctx, r, err)
	}
	_ = control.SetWriteDeadline(time.Now().Add(writeGrace))
	s.send(w, r, c, a, began)
	if err != nil {
		drain(w, r, r.Body, drainedBackup)
	}
}

// send writes a, and counts it.
func (s *Server) send(w http.ResponseWriter, r request, c *measuredCall, a answer, began time.Time) {
	cutOff := s.reply(w, r, &a)
	status := a.status
	switch {
	case cutOff != nil:
		status = statusClientGone
	case status == 0:
		status = http.StatusOK
	case status == http.StatusServiceUnavailable && r.Context().Err() != nil && !s.isStopping():
		status = statusClientGone
	}
	c.metrics.observe(status, time.Since(began))
	if cutOff != nil {
		// The client must not take the end of the response for the end of its content.
		panic(http.ErrAbortHandler)
	}
}

// reply writes a, and all of its content, as the answer to r. It returns an error if the
// client got only a part of the content.
func (s *Server) reply(w http.ResponseWriter, r request, a *answer) error {
	w, done := s.conns.TrackResponse(w, r.Request)
	defer done()
	a.write(w)
	if a.content == nil || a.status == http.StatusNotModified || r.Method == http.MethodHead {
		return nil
	}
	return a.content(pieceWriter{w, http.NewResponseController(w), s.config.StalledTimeout})
}

// A refusal is promised within a second. If an instance was deposed while it handled a
// request, little of that is left to look up the address of the leader; a healthy leader
// needs no more than minLookup to give it.
const (
	refusedWithin = 900 * time.Millisecond
	minLookup     = 100 * time.Millisecond
)

// answerInTime is answerTo within what is left of refusedWithin, or within minLookup.
func (s *Server) answerInTime(ctx context.Context, began time.Time, r request, err error) answer {
	ctx, cancel := context.WithTimeout(ctx, max(refusedWithin-time.Since(began), minLookup))
	defer cancel()
	return s.answerTo(ctx, r, err)
}

// awaitSuccessor is for a request that asked to wait, at an instance that no longer leads:
// it waits until there is a new leader, which usually takes a moment. It returns a
// *leaderElsewhere, or why the leader is not known.
func (s *Server) awaitSuccessor(ctx context.Context, within time.Duration) error {
	lookup, cancel := context.WithTimeout(ctx, max(within, minLookup))
	defer cancel()
	for {
		_, later := s.config.Local.State()
		address, err := s.leader(lookup, ports.ErrNotLeader)
		if err == nil {
			return &leaderElsewhere{address}
		}
		select {
		case <-later:
		case <-lookup.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
	}
}

// leaderContact is how many milliseconds ago this instance heard from a leader;
// empty for never.
func (s *Server) leaderContact() string {
	contact, ever := s.config.Local.LeaderContact()
	if !ever {
		return ""
	}
	return strconv.FormatInt(contact.Milliseconds(), 10)
}

func (s *Server) decide(ctx context.Context, w http.ResponseWriter, r request, c *measuredCall) (a answer, err error) {
	defer func() {
		switch reason := recover(); reason {
		case nil:
		case http.ErrAbortHandler:
			panic(reason) // net/http closes the connection
		default:
			err = s.recovered(r.Method, r.URL.Path, reason)
		}
	}()
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !c.anyParams {
		err := c.check(r.query)
		if !reads {
			// A read parses it itself, and reports all that is wrong at once.
			_, fault := r.query.source()
			err = errors.Join(err, fault)
		}
		if err != nil {
			return answer{}, err
		}
	}
	if reads || c.uploads {
		return c.answer(ctx, r)
	}
	if r.ContentLength > s.config.MaxBodyBytes {
		return answer{}, refuse(errBodyTooLarge, "the body is longer than %d bytes", s.config.MaxBodyBytes)
	}
	// It also closes the connection of a client that sends more.
	r.Body = http.MaxBytesReader(w, r.Body, s.config.MaxBodyBytes)
	return c.answer(ctx, r)
}

// recovered logs a panic, once.
func (s *Server) recovered(method, path string, reason any) error {
	s.config.Logger.Error("a request made this program panic",
		"method", method, "path", path, "panic", reason, "stack", string(debug.Stack()))
	return errPanic
}
