package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// errPanic stands for a panic that is logged already.
var errPanic = errors.New(ownFault)

func (s *Server) serveAnswer(w http.ResponseWriter, r request, c *measuredCall) {
	began, body := time.Now(), r.Body
	wait := c.waitOf(r.query)
	ctx, cancel := context.WithTimeout(r.Context(), wait+s.config.RequestTimeout)
	defer cancel()
	if wait > 0 {
		// Where it fails the response is cut off earlier, as any other.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + s.config.RequestTimeout + writeGrace))
		// Closing can't take as long as somebody may want to wait.
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
	rest, arrives := body.(interface{ through() bool }) // http.NoBody does not
	if !arrives || rest.through() || r.ProtoMajor != 1 || r.Header.Get("Expect") != "" {
		return
	}
	if http.NewResponseController(w).Flush() == nil {
		_, _ = io.CopyN(io.Discard, body, limit)
	}
}

// serveUpload is serveAnswer for a body that may take long to arrive.
func (s *Server) serveUpload(w http.ResponseWriter, r request, c *measuredCall) {
	began := time.Now()
	s.newcomers.hear(r.Context())
	control := http.NewResponseController(w)
	// Where it fails the response is cut off earlier, as any other.
	_ = control.SetWriteDeadline(time.Time{})
	body, arrives := r.Body.(*arrival)
	if arrives {
		r.Body = &upload{arrival: body}
	}
	a, err := s.decide(r.Context(), w, r, c)
	if err != nil {
		if arrives && !body.through() && r.ProtoMajor == 1 {
			// Else net/http would wait for what is left of the body before it answers.
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

// send writes a, whatever its length, and counts it.
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
	c.metrics.answered(status, time.Since(began))
	if cutOff != nil {
		// The end of a response would look like the end of its content.
		panic(http.ErrAbortHandler)
	}
}

// A refusal is promised within a second. Who was told late that this instance does
// not lead, because it was deposed meanwhile, can't wait for long for the address
// of who does; and a leader that is well needs no more than shortLook to give it.
const (
	refusedWithin = 900 * time.Millisecond
	shortLook     = 100 * time.Millisecond
)

// answerInTime is answerTo a request that began then.
func (s *Server) answerInTime(ctx context.Context, began time.Time, r request, err error) answer {
	ctx, cancel := context.WithTimeout(ctx, max(refusedWithin-time.Since(began), shortLook))
	defer cancel()
	return s.answerTo(ctx, r, err)
}

// awaitSuccessor has who asked to wait, at an instance that does not lead any more, wait
// for its successor too, which mostly is there in a moment. It gives the error that
// says where that is, or why nobody knows.
func (s *Server) awaitSuccessor(ctx context.Context, within time.Duration) error {
	within = max(within, shortLook)
	looking, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		_, later := s.config.Local.State()
		address, err := s.leader(looking, ports.ErrNotLeader)
		if err == nil {
			return &leaderElsewhere{address}
		}
		select {
		case <-later:
		case <-looking.Done():
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
			panic(reason) // it asks net/http to cut the connection
		default:
			err = s.recovered(r.Method, r.URL.Path, reason)
		}
	}()
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !c.anyParams {
		err := c.check(r.query)
		if !reads {
			// A read looks at it itself, and tells all that is wrong at once.
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
	// It also ends the connection of a sender who goes on past the limit.
	r.Body = http.MaxBytesReader(w, r.Body, s.config.MaxBodyBytes)
	return c.answer(ctx, r)
}

// recovered logs a panic, once.
func (s *Server) recovered(method, path string, reason any) error {
	s.config.Logger.Error("a request made this program panic",
		"method", method, "path", path, "panic", reason, "stack", string(debug.Stack()))
	return errPanic
}
