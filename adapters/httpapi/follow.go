package httpapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// retryPause is how long a stream waits before it asks again, when a leader is
// known but gives no answer.
const retryPause = 250 * time.Millisecond

// What a stream says while it waits for a leader, and while there is nothing to tell yet.
const (
	noLeader   = "no leader"
	nothingNew = "keep-alive"
)

// opening opens a stream at the ports, and takes the first delivery. It gives the
// revision of the registry that this shows; nil where it shows none.
type opening = func(context.Context) (seen *domain.Revision, err error)

// open tries to open a stream until that succeeds, within the time of a request each.
//
// Browsers, and others, give up for good when a stream is answered with 503. So
// what passes by itself, above all that there is no leader, is waited for on an
// open stream. Where another instance leads, the answer is a redirect as long as
// nothing is written; afterwards the stream ends, and its client comes back.
func (s *Server) open(out *sink, r request, try opening) error {
	said := false
	for {
		seen, err := s.tryOpen(r, try)
		switch {
		case err == nil && out.opened:
			return nil
		case err == nil:
			return s.openSink(out, r, seen)
		case r.Context().Err() != nil:
			return err
		case outcomeOf(err).status != http.StatusServiceUnavailable:
			return err
		}
		if !out.opened {
			if err := s.openSink(out, r, nil); err != nil {
				return err
			}
		}
		if r.Method == http.MethodHead || errors.Is(err, ports.ErrClosed) {
			return err
		}
		if !said {
			said = true
			if err := out.comment(noLeader); err != nil {
				return err
			}
		}
		if err := s.awaitLeader(out); err != nil {
			return err
		}
	}
}

// openSink sends the header of a stream.
func (s *Server) openSink(out *sink, r request, seen *domain.Revision) error {
	var contact string
	if r.query.isStale() {
		contact = s.leaderContact()
	}
	return out.open(seen, contact)
}

func (s *Server) tryOpen(r request, try opening) (*domain.Revision, error) {
	ctx, cancel := context.WithTimeout(r.Context(), s.config.RequestTimeout)
	defer cancel()
	seen, err := try(ctx)
	if !errors.Is(err, ports.ErrNotLeader) {
		return seen, err
	}
	leader, err := s.leader(ctx, err)
	if err != nil {
		return nil, err
	}
	return nil, &leaderElsewhere{leader}
}

// deliverAll delivers first and all that next gives after it, until there is an error.
// With nothing, next tells when to ask again; nil: out is woken.
//
// It asks before it waits for the first time, though it was told what there is a moment ago: the
// stack of a stream gets as large as that needs while it is opened, and not when a change
// comes, for which all streams would do it at once. With ten thousand of them that took longer
// than their leader's lease.
func deliverAll[D interface{ Empty() bool }](
	out *sink, first D, next func() (D, <-chan struct{}, error), deliver func(D) error,
) error {
	var err error
	if !first.Empty() {
		err = deliver(first)
	}
	for err == nil {
		var delivery D
		var later <-chan struct{}
		delivery, later, err = next()
		switch {
		case err != nil:
		case delivery.Empty():
			err = out.await(later, nothingNew)
		default:
			err = deliver(delivery)
		}
	}
	return err
}

// awaitLeader returns when asking for a stream again may help.
func (s *Server) awaitLeader(out *sink) error {
	pause := retryPause
	for {
		state, later := s.config.Local.State()
		if state.Closed {
			return ports.ErrClosed
		}
		if state.Leading || state.LeaderID != "" {
			if pause == 0 {
				return nil
			}
			// There was a leader when this began, and it was of no help.
			return out.pause(pause, noLeader)
		}
		pause = 0 // one that comes now is new
		if err := out.await(later, noLeader); err != nil {
			return err
		}
	}
}

// finish ends a stream that is open, with a comment that says why: err, which is not
// that its socket failed.
func (s *Server) finish(out *sink, err error) error {
	var why string
	switch {
	case errors.Is(err, ports.ErrClosed):
		why = "this instance is shutting down: connect again"
	case errors.Is(err, ports.ErrCutOff):
		why = ports.ErrCutOff.Error() + ": connect to another one"
	case errors.Is(err, ports.ErrNotLeader):
		why = "this instance does not lead: connect again"
	case errors.Is(err, context.Canceled):
		return nil // the client went
	default:
		why = "this stream can't go on: connect again"
	}
	return out.comment(why)
}
