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

// followNodes streams the changes of the registry. The stream is no more than a
// position in history: what a slow reader has not taken yet is kept nowhere.
func (s *Server) followNodes(out *sink, r request) (course, error) {
	s.waves.add(out)
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
		return delivery, nil, err // waves tell when to ask again
	}
	deliver := func(d ports.Delivery) error { return s.deliver(out, d, filter) }
	return func() error { return deliverAll(out, first, next, deliver) }, err
}

// deliver sends of d what filter lets through.
func (s *Server) deliver(out *sink, d ports.Delivery, filter domain.Filter) error {
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
	if !out.hasPending() {
		return nil // to flush would put off the comment that breaks the silence
	}
	return out.flush()
}

const (
	// maxPart is how long an event of a snapshot may be.
	maxPart = 48 << 10

	// partOverhead is more than what stands in such an event beside the nodes.
	partOverhead = 256
)

// deliverSnapshot sends view in parts. It encodes every node twice, once to know
// how many parts there are, rather than hold the whole of it for as long as the
// slowest reader takes.
//
// It takes its turn with those who make lists, part by part: when many came in the same
// moment and all encoded side by side, raft's heartbeats would wait for all of them. The
// turn is never held while a socket takes its time.
func (s *Server) deliverSnapshot(out *sink, view domain.View, filter domain.Filter) error {
	making := s.lists.making
	if making.take(s.stopping) != nil {
		return ports.ErrClosed
	}
	defer making.give()
	sizes, err := snapshotParts(view, filter, making, func() error { return out.look(nothingNew) })
	if err != nil {
		return err
	}
	part, members := 0, 0
	block := appendPartHead(nil, view.Revision(), 1, len(sizes))
	taking := snapshotSink{sink: out}
	send := func() error { return taking.event(append(block, "}}\n\n"...)) }
	for n := range matching(view, filter) {
		if members == sizes[part] {
			if s.isStopping() {
				return ports.ErrClosed
			}
			if err := making.lend(send); err != nil {
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
	return making.lend(send)
}

// snapshotParts says how many nodes go into each part; no nodes are one part too. The
// caller has one of making, which others have between two parts. Then look says whether
// anybody still waits: when many do, that takes long, and who comes again because it took
// too long for him must not have to wait for what he gave up.
func snapshotParts(view domain.View, filter domain.Filter, making permits, look func() error) (sizes []int, err error) {
	var scratch []byte
	length, members := 0, 0
	for n := range matching(view, filter) {
		scratch = appendMember(scratch[:0], n)
		if members > 0 && length+len(scratch)+1 > maxPart-partOverhead {
			sizes = append(sizes, members)
			length, members = 0, 0
			if err := making.lend(look); err != nil {
				return nil, err
			}
		}
		length += len(scratch) + 1
		members++
	}
	return append(sizes, members), nil
}

// A snapshot may be as long as a registry, so no time is enough for all of it. But it keeps
// a registry that may be long out of date, so a client that does not take this much of it in
// this time is given up. A link of 1 Mbit/s takes more than four times as much.
const (
	snapshotPiece   = uploadPiece
	snapshotTimeout = uploadTimeout
)

// snapshotSink sends a snapshot on a stream as long as its client takes it fast enough.
type snapshotSink struct {
	*sink
	taken int           // of a piece
	spent time.Duration // on that; to encode it, and to wait for that, does not count
}

// event sends block, or as much of it as its client takes in time.
func (s *snapshotSink) event(block []byte) error {
	began := time.Now()
	late := time.AfterFunc(snapshotTimeout-s.spent, s.out.hurry)
	err := s.sink.event(block)
	if !late.Stop() && err == nil {
		err = os.ErrDeadlineExceeded // it took the last in the time that hurry leaves
		s.broken = err
	}
	s.spent += time.Since(began)
	if s.taken += len(block); s.taken >= snapshotPiece {
		s.taken, s.spent = 0, 0
	}
	return err
}

// appendPartHead appends what comes before the nodes. Only the last part has an
// id: a client that is cut off before it must start over.
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

// encodedEvent belongs to one change. The node tells changes of one revision
// apart that belong to different lives of a registry, and the effect what one
// change is to those who know of all nodes and to those who know of some.
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
