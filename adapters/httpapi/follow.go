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

// The comments of a stream that waits for a leader, and of one that has nothing to send.
const (
	noLeader   = "no leader"
	nothingNew = "keep-alive"
)

// opening opens a stream at the ports, and takes its first delivery. seen is the revision
// of the registry that this shows; nil if it shows none.
type opening = func(context.Context) (seen *domain.Revision, err error)

// open tries to open a stream until that succeeds; each attempt has RequestTimeout.
//
// Browsers, and other clients, give up for good when a stream is answered with 503. So
// open waits for conditions that pass by themselves, above all that there is no leader,
// on a stream whose header is sent. If another instance leads, the answer is a redirect
// as long as nothing is written; afterwards the stream ends, and its client comes back.
func (s *Server) open(out *eventStream, r request, try opening) error {
	commented := false
	for {
		seen, err := s.tryOpen(r, try)
		switch {
		case err == nil && out.opened:
			return nil
		case err == nil:
			return s.sendHeader(out, r, seen)
		case r.Context().Err() != nil:
			return err
		case outcomeOf(err).status != http.StatusServiceUnavailable:
			return err
		}
		if !out.opened {
			if err := s.sendHeader(out, r, nil); err != nil {
				return err
			}
		}
		if r.Method == http.MethodHead || errors.Is(err, ports.ErrClosed) {
			return err
		}
		if !commented {
			commented = true
			if err := out.comment(noLeader); err != nil {
				return err
			}
		}
		if err := s.awaitLeader(out); err != nil {
			return err
		}
	}
}

// sendHeader sends the header of a stream: see eventStream.open.
func (s *Server) sendHeader(out *eventStream, r request, seen *domain.Revision) error {
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

// deliverAll delivers first, and all that next returns after it, until there is an error.
// When next has nothing, its channel is closed once it has; nil: out is woken then.
//
// It calls next once before it waits, although first has just been read: so the stack of a
// stream grows to what next needs while the stream is opened, and not when a change comes,
// for which all streams would grow theirs at once. With ten thousand streams that took
// longer than the leader's lease.
func deliverAll[D interface{ Empty() bool }](
	out *eventStream, first D, next func() (D, <-chan struct{}, error), deliver func(D) error,
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

// awaitLeader returns when it may help to open the stream again.
func (s *Server) awaitLeader(out *eventStream) error {
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
			// There was a leader before, and the stream did not open all the same.
			return out.sleep(pause, noLeader)
		}
		pause = 0 // the next leader is a new one
		if err := out.await(later, noLeader); err != nil {
			return err
		}
	}
}

// finish sends the last comment of an open stream, which says why it ends. err is not an
// error of its socket.
func (s *Server) finish(out *eventStream, err error) error {
	var why string
	switch {
	case errors.Is(err, ports.ErrClosed):
		why = "this instance is shutting down: connect again"
	case errors.Is(err, ports.ErrCutOff):
		why = ports.ErrCutOff.Error() + ": connect to another one"
	case errors.Is(err, ports.ErrNotLeader):
		why = "this instance does not lead: connect again"
	case errors.Is(err, context.Canceled):
		return nil // the client has gone
	default:
		why = "this stream can't go on: connect again"
	}
	return out.comment(why)
}
