package httpapi

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// followNodes streams the changes of the registry. The stream is only a position in
// history: what a slow reader has not received yet is not kept for it.
func (s *Server) followNodes(out *eventStream, r request) (streamFunc, error) {
	s.notifier.add(out)
	after, err := streamPosition(r)
	source, sourceErr := r.query.source()
	filter, filterErr := r.query.filter()
	if err := errors.Join(err, sourceErr, filterErr); err != nil {
		return nil, err
	}
	var stream ports.NodeStream
	var first ports.Delivery
	err = s.open(out, r, func(ctx context.Context) (seen *domain.Revision, err error) {
		if stream, err = s.config.Nodes.Follow(ctx, after, source); err != nil {
			return nil, err
		}
		first, _, err = stream.Next()
		return &first.Revision, err
	})
	next := func() (ports.Delivery, <-chan struct{}, error) {
		delivery, _, err := stream.Next()
		return delivery, nil, err // the notifier wakes out
	}
	deliver := func(d ports.Delivery) error { return s.deliver(out, d, filter) }
	return func() error { return deliverAll(out, first, next, deliver) }, err
}

// deliver sends what filter lets through of d.
func (s *Server) deliver(out *eventStream, d ports.Delivery, filter domain.Filter) error {
	if d.Snapshot != nil {
		if err := s.deliverSnapshot(out, *d.Snapshot, filter); err != nil {
			return err
		}
	}
	for i := range d.Changes {
		if s.isStopping() {
			return ports.ErrClosed
		}
		change, concerns := &d.Changes[i], true
		if !filter.All() {
			var seen domain.Change
			seen, concerns = filter.Change(*change)
			change = &seen
		}
		if !concerns {
			continue
		}
		if err := out.event(s.events.get(change)); err != nil {
			return err
		}
	}
	return out.flush()
}

const (
	// maxPart is how long an event of a snapshot may be.
	maxPart = 48 << 10

	// partOverhead is more than such an event has beside the nodes.
	partOverhead = 256
)

// deliverSnapshot sends view in parts. It encodes every node twice, the first time to count
// the parts, rather than hold all of it for as long as a slow reader takes.
//
// Each part is encoded with a permit of listCache.encoding: if many clients came in the
// same moment, and all their snapshots were encoded side by side, raft's heartbeats would
// wait for all of them. The permit is released while the part is written.
func (s *Server) deliverSnapshot(out *eventStream, view domain.View, filter domain.Filter) error {
	encoding := s.lists.encoding
	if encoding.acquire(s.stopping) != nil {
		return ports.ErrClosed
	}
	defer encoding.release()
	sizes, err := snapshotParts(view, filter, encoding, func() error { return out.check(nothingNew) })
	if err != nil {
		return err
	}
	part, members := 0, 0
	block := appendPartHead(nil, view.Revision(), 1, len(sizes))
	writer := snapshotWriter{eventStream: out}
	send := func() error { return writer.event(append(block, "}}\n\n"...)) }
	for n := range matching(view, filter) {
		if members == sizes[part] {
			if s.isStopping() {
				return ports.ErrClosed
			}
			if err := encoding.releaseWhile(send); err != nil {
				return err
			}
			part, members = part+1, 0
			block = appendPartHead(block[:0], view.Revision(), part+1, len(sizes))
		}
		if members > 0 {
			block = append(block, ',')
		}
		block = appendMember(block, n)
		members++
	}
	return encoding.releaseWhile(send)
}

// snapshotParts returns how many nodes go into each part; without nodes there is one empty
// part. The caller holds a permit of encoding, which is released between two parts. Then
// check reports whether the client still waits: with many clients this takes long, and a
// client that gave up and came again must not wait for the snapshot that it gave up.
func snapshotParts(view domain.View, filter domain.Filter, encoding semaphore, check func() error) (sizes []int, err error) {
	var scratch []byte
	length, members := 0, 0
	for n := range matching(view, filter) {
		scratch = appendMember(scratch[:0], n)
		if members > 0 && length+len(scratch)+1 > maxPart-partOverhead {
			sizes = append(sizes, members)
			length, members = 0, 0
			if err := encoding.releaseWhile(check); err != nil {
				return nil, err
			}
		}
		length += len(scratch) + 1
		members++
	}
	return append(sizes, members), nil
}

// A snapshot may be as long as a registry, so there is no time limit for all of it. But it
// keeps a registry in memory that may be long out of date, so a client that does not
// receive snapshotPiece within snapshotTimeout is disconnected. A link of 1 Mbit/s takes
// more than four times as much.
const (
	snapshotPiece   = uploadPiece
	snapshotTimeout = uploadTimeout
)

// snapshotWriter sends a snapshot on a stream, and disconnects a client that is too slow.
type snapshotWriter struct {
	*eventStream
	written int           // of the current piece
	spent   time.Duration // on writing that, without the time to encode it
}

// event sends block, or returns os.ErrDeadlineExceeded.
func (s *snapshotWriter) event(block []byte) error {
	began := time.Now()
	late := time.AfterFunc(snapshotTimeout-s.spent, s.frames.ShortenDeadlines)
	err := s.eventStream.event(block)
	if !late.Stop() && err == nil {
		err = os.ErrDeadlineExceeded // the rest was written within the shortened deadline
		s.broken = err
	}
	s.spent += time.Since(began)
	if s.written += len(block); s.written >= snapshotPiece {
		s.written, s.spent = 0, 0
	}
	return err
}

// appendPartHead appends what comes before the nodes. Only the last part has an id: a
// client that is disconnected before it must start over.
func appendPartHead(b []byte, revision domain.Revision, part, parts int) []byte {
	b = append(b, "event: snapshot\n"...)
	if part == parts {
		b = append(b, "id: "...)
		b = strconv.AppendUint(b, uint64(revision), 10)
		b = append(b, '\n')
	}
	b = append(b, `data: {"revision":`...)
	b = strconv.AppendUint(b, uint64(revision), 10)
	b = append(b, `,"part":`...)
	b = strconv.AppendInt(b, int64(part), 10)
	b = append(b, `,"parts":`...)
	b = strconv.AppendInt(b, int64(parts), 10)
	return append(b, `,"nodes":{`...)
}

// eventCache keeps the latest events encoded, once for all streams. Streams that
// read further back encode for themselves. Safe for concurrent use.
type eventCache struct {
	slots [1024]atomic.Pointer[encodedEvent]
}

// encodedEvent belongs to one change. The revision alone does not identify it: another
// incarnation of the registry may have another node at the same revision, and a filter may
// turn the effect of a change into another one.
type encodedEvent struct {
	revision domain.Revision
	effect   domain.Effect
	node     *domain.CacheNode
	block    []byte
}

func (c *eventCache) get(change *domain.Change) []byte {
	slot := &c.slots[change.Revision%domain.Revision(len(c.slots))]
	cached := slot.Load()
	if cached != nil && cached.revision == change.Revision && cached.effect == change.Effect && cached.node == change.Node {
		return cached.block
	}
	block := appendEvent(nil, change)
	if cached == nil || cached.revision <= change.Revision {
		slot.CompareAndSwap(cached, &encodedEvent{change.Revision, change.Effect, change.Node, block})
	}
	return block
}

func appendEvent(b []byte, change *domain.Change) []byte {
	b = append(b, "event: "...)
	b = append(b, change.Effect...)
	b = append(b, "\nid: "...)
	b = strconv.AppendUint(b, uint64(change.Revision), 10)
	b = append(b, "\ndata: "...)
	b = appendChange(b, change)
	return append(b, "\n\n"...)
}
