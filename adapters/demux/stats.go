package demux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Reason is why a connection was closed instead of being handed over.
type Reason uint8

// The reasons. A connection counts for one of them or as handed over, never both.
const (
	none             Reason = iota
	Silent                  // no first byte within the bound
	Disconnected            // the client went away before its first byte
	UnknownLane             // no lane has that first byte
	HandshakeTimeout        // the lane's handshake was not done within the bound
	HandshakeFailed         // the lane's handshake refused it, or lost it
	HandshakePanic          // the lane's handshake panicked
	Overload                // it made room for a newer one: Config.MaxHandshakes, LaneConfig.MaxOpen
	BacklogFull             // the lane's consumer does not keep up: LaneConfig.Backlog
	LaneClosed              // the lane was closed
	Shutdown                // the Demux was closed
	reasons                 // how many there are
)

var reasonNames = [reasons]string{
	none:             "none",
	Silent:           "silent",
	Disconnected:     "disconnected",
	UnknownLane:      "unknown_lane",
	HandshakeTimeout: "handshake_timeout",
	HandshakeFailed:  "handshake_failed",
	HandshakePanic:   "handshake_panic",
	Overload:         "overload",
	BacklogFull:      "backlog_full",
	LaneClosed:       "lane_closed",
	Shutdown:         "shutdown",
}

// String is a snake_case word, fit for the label of a metric.
func (r Reason) String() string {
	if r >= reasons {
		return fmt.Sprintf("reason_%d", uint8(r))
	}
	return reasonNames[r]
}

// Stats is what a Demux has done so far. Its numbers are read one after the
// other, not at one instant; when nothing moves, Accepted is the sum of Pending,
// of Rejected, and of Queued and HandedOver of all lanes.
type Stats struct {
	Accepted     uint64
	AcceptErrors uint64            // accepts that failed and were tried again
	Pending      int               // now between accept and hand-over
	Rejected     map[Reason]uint64 // has every reason, also those that never were
	Lanes        map[byte]LaneStats
}

// LaneStats is the part of one lane in Stats.
type LaneStats struct {
	HandedOver uint64 // returned by Accept
	Queued     int    // now waiting for Accept
	Open       int    // now queued or open at their owner; 0 without LaneConfig.MaxOpen
	Evicted    uint64 // closed under their owner to make room: LaneConfig.MaxOpen
}

// Stats may be called at any time.
func (d *Demux) Stats() Stats {
	stats := Stats{
		Accepted:     d.accepted.Load(),
		AcceptErrors: d.acceptErrors.Load(),
		Pending:      d.pending.size(),
		Rejected:     make(map[Reason]uint64, reasons),
		Lanes:        make(map[byte]LaneStats),
	}
	for reason := none + 1; reason < reasons; reason++ {
		stats.Rejected[reason] = d.rejected[reason].Load()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, lane := range d.lanes {
		if lane != nil {
			stats.Lanes[lane.first] = lane.stats()
		}
	}
	return stats
}

func (l *Lane) stats() LaneStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	stats := LaneStats{HandedOver: l.handedOver, Queued: len(l.backlog), Evicted: l.evicted}
	if l.open != nil {
		stats.Open = l.open.size()
	}
	return stats
}

// rejection is an error with the Reason that it counts as.
type rejection struct {
	reason Reason
	cause  error
}

func (r rejection) Error() string { return r.cause.Error() }
func (r rejection) Unwrap() error { return r.cause }

// reasonOf returns the Reason of a rejection; none if err is nil.
func reasonOf(err error) Reason {
	if rejected, ok := errors.AsType[rejection](err); ok {
		return rejected.reason
	}
	return none
}

// report logs a rejection. Strangers must not be able to fill the log, so there is at
// most one warning in a second for each reason; the rest is at debug level.
func (d *Demux) report(reason Reason, remote net.Addr, cause error) {
	level := slog.LevelDebug
	switch reason {
	case HandshakePanic:
		level = slog.LevelError
	case HandshakeFailed, Overload, BacklogFull:
		level = slog.LevelWarn
	}
	if level > slog.LevelDebug && !d.mayWarn(reason) {
		level = slog.LevelDebug
	}
	attributes := []slog.Attr{slog.String("reason", reason.String()), slog.Any("remote", remote)}
	if cause != nil {
		attributes = append(attributes, slog.String("error", cause.Error()))
	}
	d.log.LogAttrs(context.Background(), level, "Closed a connection before hand-over.", attributes...)
}

func (d *Demux) mayWarn(reason Reason) bool {
	now := time.Now().UnixNano()
	last := d.warned[reason].Load()
	return now-last >= int64(time.Second) && d.warned[reason].CompareAndSwap(last, now)
}
