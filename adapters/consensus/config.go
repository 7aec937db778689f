package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// RaftLane is the first byte of a connection that carries raft RPC.
const RaftLane byte = 0x01

// Timing is how patient raft is, and how much log it keeps. Every field must be
// set; Validate says what fits together.
type Timing struct {
	// HeartbeatTimeout is how long a follower does not hear from its leader before it
	// stands for election; heartbeats are sent ten times as often.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is how long a candidate waits for votes.
	ElectionTimeout time.Duration
	// SnapshotThreshold is how many entries beyond the last snapshot lead to another one,
	// even if they are few bytes. Fewer entries lead to one at once, without waiting for
	// SnapshotInterval, when they take 1 MiB and twice the last snapshot.
	SnapshotThreshold uint64
	// SnapshotInterval is how often SnapshotThreshold is checked; raft waits for one to two
	// intervals between checks.
	SnapshotInterval time.Duration
	// TrailingLogs is how many entries before a snapshot are kept in the log for followers
	// that are a little behind. It is fewer if they take more than 2 MiB and twice the
	// last snapshot, and more, up to that size, while a follower is sent a snapshot.
	TrailingLogs uint64
}

const (
	// minHang is the least time after which an operation of the store counts as hanging:
	// an fsync on a busy machine takes hundreds of milliseconds.
	minHang = time.Second
	// hangElections is that time in election timeouts, if that is longer than minHang.
	hangElections = 5
)

// hangAfter is how long an operation of the store may take before it counts as hanging.
func (t Timing) hangAfter() time.Duration { return max(minHang, hangElections*t.ElectionTimeout) }

// Validate reports all faults at once.
func (t Timing) Validate() error {
	var faults []error
	check := func(holds bool, format string, args ...any) {
		if !holds {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(t.HeartbeatTimeout >= 50*time.Millisecond,
		"heartbeat timeout %v is under 50ms", t.HeartbeatTimeout)
	check(t.ElectionTimeout >= t.HeartbeatTimeout,
		"election timeout %v is under the heartbeat timeout %v", t.ElectionTimeout, t.HeartbeatTimeout)
	check(t.ElectionTimeout <= time.Minute,
		"election timeout %v is over a minute", t.ElectionTimeout)
	check(t.SnapshotThreshold > 0, "snapshot threshold is 0")
	check(t.SnapshotInterval >= 5*time.Millisecond,
		"snapshot interval %v is under 5ms", t.SnapshotInterval)
	return errors.Join(faults...)
}

// Config is what a Node needs. All of it is required unless it says otherwise.
type Config struct {
	// ID is this instance's id in the raft cluster: see domain.CheckID.
	ID string
	// AdvertisedAddress is how others reach the raft port; empty means the
	// address that the raft port is bound to.
	AdvertisedAddress string

	// Directory is where log, stable state and snapshots are kept, the former two by
	// Backend. If Backend is volatile, snapshots are kept in memory only.
	Directory string
	Backend   logstore.Backend
	// VolatileBackends are the names of all volatile backends: Directory may have been
	// made with one of them.
	VolatileBackends []string

	// Demux is the raft port, on which New takes RaftLane. It must be opened before the
	// Node, and closed after it.
	Demux *demux.Demux
	// Network is what raft's connections go through; nil means Demux. It is for
	// simulations, which then need no Demux.
	Network Network

	// Peers asks the leader for the index of reads that are answered here while another
	// instance leads.
	Peers ports.Peers

	// Bootstrap founds a cluster of this instance alone if the directory holds no cluster.
	Bootstrap bool
	// Secret, when it is not empty, is what instances prove to each other.
	Secret []byte

	Timing Timing
	Logger *slog.Logger

	// Observer is told how long operations take; nil for none.
	Observer Observer

	// Fatal is called, at most once and from any goroutine, with the reason why this
	// instance can't go on; the process should stop. It must not wait for Close.
	Fatal func(error)
}

// Observer records durations. Its methods are called from many goroutines, and delay writes
// for as long as they take.
type Observer interface {
	// Proposed is told how long a write took, from the proposal until it was
	// committed and applied here.
	Proposed(took time.Duration)
	// Applied is told how long the state machine took to apply a batch of committed entries.
	Applied(entries int, took time.Duration)
	// Stored is told how long one append of entries took until they were durable.
	Stored(took time.Duration)
}

type unobserved struct{}

func (unobserved) Proposed(time.Duration)     {}
func (unobserved) Applied(int, time.Duration) {}
func (unobserved) Stored(time.Duration)       {}

// Validate reports everything that is missing or invalid.
func (c Config) Validate() error {
	var faults []error
	require := func(given bool, name string) {
		if !given {
			faults = append(faults, fmt.Errorf("consensus: %s is missing", name))
		}
	}
	if err := domain.CheckID("raft id", c.ID); err != nil {
		faults = append(faults, fmt.Errorf("consensus: %w", err))
	}
	require(c.Directory != "", "Directory")
	require(c.Backend.Name != "", "Backend.Name")
	require(c.Backend.Open != nil, "Backend.Open")
	require(c.Demux != nil || c.Network != nil, "Demux")
	require(c.Peers != nil, "Peers")
	require(c.Logger != nil, "Logger")
	require(c.Fatal != nil, "Fatal")
	if err := c.Timing.Validate(); err != nil {
		faults = append(faults, fmt.Errorf("consensus: %w", err))
	}
	return errors.Join(faults...)
}
