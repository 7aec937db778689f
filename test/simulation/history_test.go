package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	randv2 "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// plan is what a seed decides.
type plan struct {
	instances int
	timing    consensus.Timing
	believes  bool // the first instance goes on leading for long without hearing from others
	clients   int
	reads     int           // percentage of operations
	think     time.Duration // upper bound of a client's pause between two operations
	faults    []fault       // those that may happen
	lasts     time.Duration
	calm      time.Duration // upper bound of the time between two faults
}

func planFor(random *randv2.Rand) plan {
	p := plan{
		instances: []int{1, 2, 3, 3, 3, 3, 3, 4, 5, 5}[random.IntN(10)],
		timing: consensus.Timing{
			HeartbeatTimeout:  150 * time.Millisecond,
			ElectionTimeout:   150 * time.Millisecond,
			SnapshotThreshold: 8192,
			SnapshotInterval:  time.Second,
			TrailingLogs:      uint64(random.IntN(100)),
		},
		believes: random.IntN(6) == 0,
		clients:  2 + random.IntN(3),
		reads:    20 + random.IntN(50),
		think:    time.Duration(5+random.IntN(80)) * time.Millisecond,
		lasts:    time.Duration(1500+random.IntN(2500)) * time.Millisecond,
		calm:     time.Duration(20+random.IntN(500)) * time.Millisecond,
	}
	if random.IntN(2) == 0 {
		p.timing.SnapshotThreshold = uint64(3 + random.IntN(30))
		p.timing.SnapshotInterval = time.Duration(30+random.IntN(200)) * time.Millisecond
	}
	// A few kinds of faults at a time get further than all of them together.
	for _, f := range allFaults {
		if random.IntN(3) == 0 {
			p.faults = append(p.faults, f)
		}
	}
	if len(p.faults) == 0 {
		p.faults = allFaults
	}
	return p
}

// story is one history: a cluster from its beginning to its end.
type story struct {
	seed      uint64
	broken    broken
	plan      plan
	directory string
	fabric    *fabric
	instances []*instance
	faults    sync.WaitGroup // goroutines that disturb the cluster
	// losing is held while an instance's directory is wiped, and shared by changes
	// of the membership: without the wiped instance, a change might find no
	// majority.
	losing  sync.RWMutex
	running context.Context
	end     context.CancelFunc

	clock atomic.Int64 // orders calls and answers
	seen  witnessed

	mu       sync.Mutex // guards the fields below
	began    time.Time
	failures []string
	lines    []string // the trace
	records  []*record
	values   int
	happened int // number of faults so far
}

// run makes a history and records what is wrong with it in failures. It must be
// called in a bubble.
func run(seed uint64, b broken, directory string) *story {
	rand.Seed(int64(seed)) //lint:ignore SA1019 raft draws its timeouts from there
	random := randv2.New(randv2.NewPCG(seed, 0))
	h := &story{seed: seed, broken: b, directory: directory, began: time.Now(), plan: planFor(random)}
	if b.plan != nil {
		b.plan(&h.plan)
	}
	h.running, h.end = context.WithCancel(context.Background())
	h.fabric = newFabric(seed)
	h.seen = newWitnessed()
	for n := range h.plan.instances {
		h.instances = append(h.instances, newInstance(h, n+1))
	}
	h.trace("%d instances, %d clients, timing %+v, believes %v", h.plan.instances, h.plan.clients, h.plan.timing, h.plan.believes)
	if h.form() {
		h.disturb(random)
		h.settle()
	}
	h.end()
	h.faults.Wait()
	for _, i := range h.instances {
		i.crash()
		i.ending.Wait()
	}
	return h
}

// form starts all instances, and the first one adds the others.
func (h *story) form() bool {
	for _, i := range h.instances {
		if err := i.start(); err != nil {
			h.fail("%v", err)
			return false
		}
	}
	return h.eventually("the cluster forms", func() error {
		leader := h.instances[0].alive()
		var faults []error
		for _, i := range h.instances[1:] {
			ctx, cancel := context.WithTimeout(h.running, time.Second)
			_, err := leader.cluster.Add(ctx, i.as(domain.Voter), false)
			faults = append(faults, err)
			cancel()
		}
		state, _ := leader.State()
		if !state.Leading {
			faults = append(faults, errors.New("no instance leads"))
		}
		return errors.Join(faults...)
	})
}

// disturb runs clients while faults come and go.
func (h *story) disturb(random *randv2.Rand) {
	ctx, cancel := context.WithCancel(h.running)
	var clients sync.WaitGroup
	for n := range h.plan.clients {
		clients.Go(func() { newClient(h, n).work(ctx) })
	}
	for n := range 2 {
		clients.Go(func() { newSubscriber(h, n).follow(ctx) })
	}
	faults, lift := context.WithTimeout(ctx, h.plan.lasts)
	for faults.Err() == nil {
		h.pause(faults, time.Duration(random.Int64N(int64(h.plan.calm))))
		if faults.Err() == nil {
			f := h.plan.faults[random.IntN(len(h.plan.faults))]
			f(h, random, faults)
			h.happened++
		}
	}
	lift()
	h.faults.Wait() // each fault undoes what it did
	for _, i := range h.instances {
		i.disk.arm(0, false, nil)
		h.revive(i, 0)
	}
	h.trace("all faults are lifted")
	h.recover(cancel, &clients)
}

// recovers is how long after the end of all faults a write may take to succeed. A
// peer that was cut off is tried again only after the previous request has timed
// out, which takes 2 s, or after raft's backoff for many failures.
const recovers = 15 * time.Second

func (h *story) recover(stop context.CancelFunc, clients *sync.WaitGroup) {
	limit := recovers
	if h.plan.believes {
		limit *= 2
	}
	writer := newClient(h, h.plan.clients)
	lifted := time.Now()
	if !h.within(limit, "a write succeeds", func() error { return writer.writeSomewhere(h.running) }) {
		h.trace("no write succeeds")
	}
	h.trace("a write succeeds %v after the faults are lifted", time.Since(lifted))
	stop()
	clients.Wait()
}

// settle waits until all members are in the same state, and the streams have
// delivered everything.
func (h *story) settle() {
	h.within(2*recovers, "all members are in the same state", h.alike)
	if h.failed() {
		return
	}
	for n := range 2 {
		newSubscriber(h, n).catchUp()
	}
}

// at returns the process that listens at an address, or nil.
func (h *story) at(address string) *process {
	for _, i := range h.instances {
		if i.address == address {
			return i.alive()
		}
	}
	return nil
}

// revive starts an instance, unless it is running, after a while. It tries again
// while the disk fails.
func (h *story) revive(i *instance, after time.Duration) {
	h.pause(h.running, after)
	err := i.start()
	for err != nil && i.disk.isFailing() {
		h.trace("%v", err)
		h.pause(h.running, 100*time.Millisecond)
		err = i.start()
	}
	if err != nil {
		h.fail("%v", err)
	}
}

// pause waits for d in the bubble's time, or until ctx ends.
func (h *story) pause(ctx context.Context, d time.Duration) { _ = waitFor(ctx, d, nil) }

func (h *story) eventually(what string, holds func() error) bool {
	return h.within(recovers, what, holds)
}

func (h *story) within(limit time.Duration, what string, holds func() error) bool {
	for deadline := time.Now().Add(limit); ; {
		err := holds()
		if err == nil {
			return true
		}
		if time.Now().After(deadline) || h.failed() {
			h.fail("%s: not within %v: %v", what, limit, err)
			return false
		}
		h.pause(h.running, 7*time.Millisecond)
	}
}

// expectsFatal reports whether err is raft's known bug of losing the end of a
// leadership transfer.
func (h *story) expectsFatal(err error) bool {
	return strings.Contains(err.Error(), "raft does not let it write")
}

func (h *story) fail(format string, args ...any) {
	h.trace("FAILURE: "+format, args...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures = append(h.failures, fmt.Sprintf(format, args...))
}

func (h *story) failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.failures) > 0
}

func (h *story) trace(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf("%12v ", time.Since(h.began))+fmt.Sprintf(format, args...))
}

// logger returns a logger that writes to the trace.
func (h *story) logger(id string) *slog.Logger {
	return slog.New(slog.NewTextHandler(traced{h, id}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// traced writes the log of an instance to the trace.
type traced struct {
	story *story
	id    string
}

func (t traced) Write(line []byte) (int, error) {
	t.story.trace("%s: %s", t.id, strings.TrimSpace(string(line)))
	return len(line), nil
}
