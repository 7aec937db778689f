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

// How long a joining instance waits between two rounds of asking: twice as long after each
// round, with jitter. joinAskTimeout bounds one question.
const (
	firstJoinPause = 100 * time.Millisecond
	maxJoinPause   = 5 * time.Second
	joinAskTimeout = 5 * time.Second
)

// errAgreedWithoutEffect is the fault of an address whose agreement had no consequence.
var errAgreedWithoutEffect = errors.New("agreed, and nothing has come of that")

// JoinConfig is what joining a cluster needs.
type JoinConfig struct {
	// Self is this instance as it asks to be a member. If it is a member already, it
	// keeps its suffrage.
	Self domain.Instance
	// Through are application addresses of instances of the cluster; empty: there is
	// nobody to ask. All instances may have the same list: Own, this one's address, is
	// skipped unless this instance is a member, which may be the leader.
	Through    []string
	Own        string
	Local      ports.Local
	Admission  ports.Admission
	JoinIntent ports.JoinIntent
	Logger     *slog.Logger
}

// Joiner asks other instances to add this one until it is a member at its address. It
// implements ports.JoinStatus.
type Joiner struct {
	JoinConfig
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex       // guards the fields below
	asked  []string         // the addresses that it asks; empty while it asks nobody
	faults map[string]error // the last error of each address
}

// NewJoiner starts nothing.
func NewJoiner(config JoinConfig) *Joiner { return &Joiner{JoinConfig: config} }

// Open starts asking, if this instance has to be added and there are addresses to ask. It
// does not wait for an answer. The context bounds only the start.
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
	pending := j.intentPending()
	if len(j.Through) == 0 {
		if pending {
			j.endIntent() // or it would ask again when it is next started with addresses
		}
		return nil
	}
	// The latest membership in the log may not be committed; right after a start that can't
	// be known. But if an instance asked again just because of that, it would also do so
	// after it was removed while it was down, against the operator's will. So a member asks
	// again only if it was still asking when it stopped.
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
		defer j.clearAsked()
		// If it is a committed member, it learns so soon. Don't ask before that: its
		// membership may have been changed since.
		if isIn && j.awaitMembership(ctx, maxJoinPause) || j.join(ctx) {
			j.endIntent()
		}
	})
	return nil
}

// Close stops asking and waits for that. It may be called without Open.
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
	var answers []string // without duplicates: all addresses may pass on the leader's answer
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

func (j *Joiner) clearAsked() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked, j.faults = nil, nil
}

func (j *Joiner) intentPending() bool {
	pending, err := j.JoinIntent.JoinPending()
	if err != nil {
		j.Logger.Warn("whether this instance was asking to join when it ended can't be read", "error", err)
	}
	return pending
}

func (j *Joiner) endIntent() {
	if err := j.JoinIntent.EndJoin(); err != nil {
		j.Logger.Warn("that this instance asks to join no more could not be kept", "error", err)
	}
}

// join asks until this instance is a member; false if ctx ends first.
func (j *Joiner) join(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	// Before the first question: from then on this instance may be a member.
	if err := j.JoinIntent.BeginJoin(); err != nil {
		j.Logger.Warn("that this instance asks to join could not be kept: if it is started anew at once, it may not go on", "error", err)
	}
	for pause := firstJoinPause; ; pause = min(2*pause, maxJoinPause) {
		agreed := j.askAround(ctx)
		if j.awaitMembership(ctx, pause/2+rand.N(pause/2)) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if agreed != "" {
			j.deprioritize(agreed)
		}
	}
}

// askAround asks one address after the other until one agrees, and returns that one; empty
// if none does.
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

// deprioritize makes the next round begin after an address that agreed without effect: the
// instance there may belong to another cluster, or to none, and the addresses after it must
// be asked too.
func (j *Joiner) deprioritize(agreed string) {
	err := fmt.Errorf("%s %w", agreed, errAgreedWithoutEffect)
	j.noteFault(agreed, err)
	j.Logger.Warn("asked to join, without success so far", "through", agreed, "error", err)
	at := slices.Index(j.Through, agreed) + 1
	j.Through = slices.Concat(j.Through[at:], j.Through[:at])
}

// noteFault records the last error of an address. If the address agrees again, after it
// agreed without effect, that error stays.
func (j *Joiner) noteFault(address string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil || !errors.Is(j.faults[address], errAgreedWithoutEffect) {
		j.faults[address] = err
	}
}

func (j *Joiner) ask(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, joinAskTimeout)
	defer cancel()
	return j.Admission.Ask(ctx, address, j.Self)
}

// isIn reports whether roster has this instance at its address, with any suffrage: making
// it a voter is the leader's job.
func (j *Joiner) isIn(roster domain.Roster) bool {
	known, isMember := roster.Find(j.Self.ID)
	return isMember && known.RaftAddress == j.Self.RaftAddress
}

// awaitMembership waits at most d until this instance is a committed member. An uncommitted
// membership may be lost, and nobody but this instance would ask again.
func (j *Joiner) awaitMembership(ctx context.Context, d time.Duration) bool {
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
