package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// How long a joining instance waits between two rounds of asking: twice as long
// after each round, with a random part so that many instances spread out.
const (
	firstJoinPause = 100 * time.Millisecond
	maxJoinPause   = 5 * time.Second
	joinAskTimeout = 5 * time.Second
)

// errCameToNothing is the fault of an address whose agreement had no consequence.
var errCameToNothing = errors.New("agreed, and nothing has come of that")

// JoinConfig is what joining a cluster needs.
type JoinConfig struct {
	// Self is this instance as it wishes to be a member. One that is a member
	// already keeps its suffrage.
	Self domain.Instance
	// Through are application addresses of instances of the cluster; empty:
	// there is nothing to do. One list may serve all instances: Own, this one's
	// address, is asked only by a member, which may lead, of itself even.
	Through    []string
	Own        string
	Local      ports.Local
	Admission  ports.Admission
	JoinIntent ports.JoinIntent
	Logger     *slog.Logger
}

// Joiner asks to be made a member until this instance is one, at its address.
type Joiner struct {
	JoinConfig
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	asked  []string   // whom it asks; empty for nobody
	faults map[string]error
}

// NewJoiner starts nothing.
func NewJoiner(config JoinConfig) *Joiner { return &Joiner{JoinConfig: config} }

// Open starts asking, where there is somebody to ask and need to. It does not
// wait for an answer. The context bounds only the start.
func (j *Joiner) Open(context.Context) error {
	state, _ := j.Local.State()
	known, isMember := state.Roster.Find(j.Self.ID)
	switch {
	case !isMember:
		others := slices.DeleteFunc(slices.Clone(j.Through), func(address string) bool { return address == j.Own })
		if len(others) == 0 && len(j.Through) > 0 {
			j.Logger.Warn("there is nobody to ask but this instance itself: it waits to be added", "id", j.Self.ID)
		}
		j.Through = others
	case !state.Staged:
		j.Self.Suffrage = known.Suffrage
	}
	pending := j.isPending()
	if len(j.Through) == 0 {
		if pending {
			j.end() // or it would go on if it is given somebody to ask once more
		}
		return nil
	}
	// The latest membership may not be committed, and right after a start nobody can tell of
	// one that came after the last snapshot. Who asked again because of that alone would also do
	// so where it was removed while it was down, and be back against an operator's will. So that
	// takes that it was asking when it ended.
	isIn := j.isIn(state.Roster)
	if isIn && !pending {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	j.cancel = cancel
	j.mu.Lock()
	j.asked, j.faults = j.Through, map[string]error{}
	j.mu.Unlock()
	j.done.Go(func() {
		defer j.asksNobody()
		// Where it came to be a member, that is known soon, and it may have been changed since.
		if isIn && j.memberWithin(ctx, maxJoinPause) || j.join(ctx) {
			j.end()
		}
	})
	return nil
}

// Close ends asking and waits for that. It may be called without Open.
func (j *Joiner) Close(context.Context) error {
	if j.cancel != nil {
		j.cancel()
	}
	j.done.Wait()
	return nil
}

// JoinStatus implements ports.JoinStatus.
func (j *Joiner) JoinStatus() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.asked) == 0 {
		return ""
	}
	var answers []string // the leader's is the same through each
	for _, address := range j.asked {
		if err := j.faults[address]; err != nil && !slices.Contains(answers, err.Error()) {
			answers = append(answers, err.Error())
		}
	}
	if len(answers) == 0 {
		return "it asks to be added (--join), through " + strings.Join(j.asked, ", ")
	}
	return "it asks to be added (--join), without success so far: " + strings.Join(answers, "; ")
}

func (j *Joiner) asksNobody() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked, j.faults = nil, nil
}

func (j *Joiner) isPending() bool {
	pending, err := j.JoinIntent.Pending()
	if err != nil {
		j.Logger.Warn("whether this instance was asking to join when it ended can't be read", "error", err)
	}
	return pending
}

func (j *Joiner) end() {
	if err := j.JoinIntent.End(); err != nil {
		j.Logger.Warn("that this instance asks to join no more could not be kept", "error", err)
	}
}

// join returns whether it came to be a member: it gives up only when ctx ends.
func (j *Joiner) join(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	// Before the first question: the membership may have it from then on.
	if err := j.JoinIntent.Begin(); err != nil {
		j.Logger.Warn("that this instance asks to join could not be kept: if it is started anew at once, it may not go on", "error", err)
	}
	for pause := firstJoinPause; ; pause = min(2*pause, maxJoinPause) {
		agreed := j.askAround(ctx)
		if j.memberWithin(ctx, pause/2+rand.N(pause/2)) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if agreed != "" {
			j.leaveToTheLast(agreed)
		}
	}
}

// askAround asks one address after the other until one of them agrees, which it gives;
// empty where none does.
func (j *Joiner) askAround(ctx context.Context) (agreed string) {
	for _, address := range j.Through {
		err := j.ask(ctx, address)
		if ctx.Err() != nil {
			return ""
		}
		if err == nil {
			j.noteFault(address, nil)
			return address
		}
		j.noteFault(address, err)
		j.Logger.Warn("asked to join, without success so far", "through", address, "error", err)
	}
	return ""
}

// leaveToTheLast has the next round begin behind an address that agreed to no avail: it
// may belong to another cluster, or be none's, and must not hide those behind it.
func (j *Joiner) leaveToTheLast(agreed string) {
	err := fmt.Errorf("%s %w", agreed, errCameToNothing)
	j.noteFault(agreed, err)
	j.Logger.Warn("asked to join, without success so far", "through", agreed, "error", err)
	at := slices.Index(j.Through, agreed) + 1
	j.Through = slices.Concat(j.Through[at:], j.Through[:at])
}

// noteFault keeps what an address answered last. That one agrees does not yet make up
// for that nothing came of it before.
func (j *Joiner) noteFault(address string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil || !errors.Is(j.faults[address], errCameToNothing) {
		j.faults[address] = err
	}
}

func (j *Joiner) ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, joinAskTimeout)
	defer cancel()
	return j.Admission.Ask(ctx, address, j.Self)
}

// isIn reports whether roster has this instance at its address, with whatever suffrage:
// to make it a voter is the leader's concern.
func (j *Joiner) isIn(roster domain.Roster) bool {
	known, isMember := roster.Find(j.Self.ID)
	return isMember && known.RaftAddress == j.Self.RaftAddress
}

// memberWithin waits at most d for this instance to see the membership committed: until
// then it may come to nothing, and nobody else would ask again.
func (j *Joiner) memberWithin(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		state, later := j.Local.State()
		if committed := state.LastCommitted().Roster; j.isIn(committed) {
			known, _ := committed.Find(j.Self.ID)
			j.Logger.Info("joined the raft cluster",
				"id", known.ID, "address", known.RaftAddress, "suffrage", known.Suffrage, "cluster_id", state.ClusterID)
			return true
		}
		select {
		case <-later:
		case <-ctx.Done():
			return false
		}
	}
}
