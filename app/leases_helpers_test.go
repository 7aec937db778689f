package app_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// tapped is an instance whose proposals, reads and state a test can observe, delay and
// fail. It is safe for concurrent use.
type tapped struct {
	*portstest.Instance
	contacts atomic.Int64 // how often it was asked for LeaderContact
	mu       sync.Mutex
	reads    int
	cmds     []domain.Command
	propose  func(ctx context.Context, cmd domain.Command) error // before it is proposed; an error instead of that
	read     func() error                                        // before it is read; an error instead of that
	stopped  chan struct{}                                       // while the state can't be had
	frozen   *ports.LocalState                                   // the state as it was
}

// LeaderContact implements ports.Local.
func (r *tapped) LeaderContact() (time.Duration, bool) {
	r.contacts.Add(1)
	return r.Instance.LeaderContact()
}

func (r *tapped) Propose(ctx context.Context, cmd domain.Command) ([]domain.Change, error) {
	r.mu.Lock()
	r.cmds = append(r.cmds, cmd)
	tap := r.propose
	r.mu.Unlock()
	if tap != nil {
		if err := tap(ctx, cmd); err != nil {
			return nil, err
		}
	}
	return r.Instance.Propose(ctx, cmd)
}

func (r *tapped) Read(ctx context.Context) (domain.View, error) {
	r.mu.Lock()
	r.reads++
	tap := r.read
	r.mu.Unlock()
	if tap != nil {
		if err := tap(); err != nil {
			return domain.View{}, err
		}
	}
	return r.Instance.Read(ctx)
}

func (r *tapped) State() (ports.LocalState, <-chan struct{}) {
	r.mu.Lock()
	stopped, frozen := r.stopped, r.frozen
	r.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	state, later := r.Instance.State()
	if frozen != nil {
		state = *frozen
	}
	return state, later
}

// tap sets some of the fields of r.
func (r *tapped) tap(set func(*tapped)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set(r)
}

// standStill simulates a process that is stopped for d: callers of State
// continue only afterwards.
func (r *tapped) standStill(d time.Duration) {
	stopped := make(chan struct{})
	r.tap(func(r *tapped) { r.stopped = stopped })
	pass(d)
	r.tap(func(r *tapped) { r.stopped = nil })
	close(stopped)
	synctest.Wait()
}

func (r *tapped) readsSoFar() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}

// proposals gives the number of proposed commands.
func (r *tapped) proposals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cmds)
}

// expiries gives the number of nodes of each proposed expiry.
func (r *tapped) expiries() (nodes []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, cmd := range r.cmds {
		if expire, ok := cmd.(domain.Expire); ok {
			nodes = append(nodes, len(expire.Nodes))
		}
	}
	return nodes
}

// blockExpiry keeps expiries from being proposed until release is called with
// their error, or nil.
func (r *tapped) blockExpiry() (release func(error)) {
	return r.block(func(cmd domain.Command) bool { _, ok := cmd.(domain.Expire); return ok })
}

// blockWrites does the same for all commands but expiries.
func (r *tapped) blockWrites() (release func(error)) {
	return r.block(func(cmd domain.Command) bool { _, ok := cmd.(domain.Expire); return !ok })
}

func (r *tapped) block(what func(domain.Command) bool) (release func(error)) {
	released := make(chan struct{})
	var meets error
	r.tap(func(r *tapped) {
		r.propose = func(ctx context.Context, cmd domain.Command) error {
			if !what(cmd) {
				return nil
			}
			select {
			case <-released:
				return meets
			case <-ctx.Done():
				return ports.ErrOutcomeUnknown
			}
		}
	})
	return func(err error) {
		meets = err
		r.tap(func(r *tapped) { r.propose = nil })
		close(released)
		synctest.Wait()
	}
}

// leasing is a leader with its clock of leases running, in a bubble.
type leasing struct {
	*app.Leases
	*tapped
	t     *testing.T
	nodes *app.Nodes
	log   *strings.Builder // to be read when all is quiet
}

// inBubble runs test in a synctest bubble with open leases, and closes them afterwards.
func inBubble(t *testing.T, test func(t *testing.T, l leasing), but ...func(*app.LeaseConfig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := leasing{tapped: &tapped{Instance: portstest.NewInstance("n1", "h:1")}, t: t, log: &strings.Builder{}}
		config := app.LeaseConfig{Registry: l.tapped, Local: l.tapped, Logger: slog.New(slog.NewTextHandler(l.log, nil))}
		for _, change := range but {
			change(&config)
		}
		l.Leases = app.NewLeases(config)
		l.nodes = app.NewNodes(l.tapped, l.tapped, l.Leases)
		if err := l.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := l.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		test(t, l)
	})
}

// pass lets time pass in a bubble, and waits until its consequences have happened.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// living gives the spec of a node with a time to live.
func living(id string, seconds int, but ...func(*domain.NodeSpec)) domain.NodeSpec {
	spec := domain.NodeSpec{ID: id, Address: id + ".example:11211", TTLSeconds: &seconds}
	for _, change := range but {
		change(&spec)
	}
	return spec
}

func downOnExpiry(s *domain.NodeSpec) { s.OnExpiry = new(domain.DownOnExpiry) }

func in(state domain.State) func(*domain.NodeSpec) {
	return func(s *domain.NodeSpec) { s.State = &state }
}

func of(pool string) func(*domain.NodeSpec) { return func(s *domain.NodeSpec) { s.Pool = &pool } }

func (l leasing) mustRegister(specs ...domain.NodeSpec) (last domain.Change) {
	l.t.Helper()
	for _, spec := range specs {
		var err error
		if last, err = l.nodes.Register(l.t.Context(), spec, domain.Condition{}); err != nil {
			l.t.Fatal(err)
		}
	}
	synctest.Wait()
	return last
}

func (l leasing) mustRenew(id string) *domain.CacheNode {
	l.t.Helper()
	node, revision, err := l.Renew(l.t.Context(), id)
	if err != nil {
		l.t.Fatalf("renew %s: %v", id, err)
	}
	if state, _ := l.Instance.State(); node.ID != id || revision != state.View.Revision() {
		l.t.Fatalf("renew %s = %+v at revision %d, want %d", id, node, revision, state.View.Revision())
	}
	return node
}

// is gives the state of a node in the registry, or "gone".
func (l leasing) is(id string) domain.State {
	state, _ := l.Instance.State()
	if node, known := state.View.Node(id); known {
		return node.State
	}
	return "gone"
}

func (l leasing) mustBe(id string, want domain.State) {
	l.t.Helper()
	if got := l.is(id); got != want {
		l.t.Fatalf("%s is %s, want %s", id, got, want)
	}
}

// mustEndIn checks that the node expires when its time is over, within half a
// second, and not before.
func (l leasing) mustEndIn(d time.Duration, id string, as domain.State) {
	l.t.Helper()
	before := l.is(id)
	pass(d - time.Millisecond)
	l.mustBe(id, before)
	pass(time.Millisecond + 500*time.Millisecond)
	l.mustBe(id, as)
}

// outcome is the result of a call that runs in a goroutine of its own.
type outcome[T any] struct {
	value T
	err   error
}

// begin runs call in a goroutine of its own, and returns once it waits.
func begin[T any](call func() (T, error)) <-chan outcome[T] {
	answered := make(chan outcome[T], 1)
	go func() {
		value, err := call()
		answered <- outcome[T]{value, err}
	}()
	synctest.Wait()
	return answered
}

func mustWait[T any](t *testing.T, answered <-chan outcome[T]) {
	t.Helper()
	select {
	case got := <-answered:
		t.Fatalf("the call returned %+v, %v, want it to wait", got.value, got.err)
	default:
	}
}

func mustAnswer[T any](t *testing.T, answered <-chan outcome[T]) (T, error) {
	t.Helper()
	select {
	case got := <-answered:
		return got.value, got.err
	default:
		t.Fatal("the call has not returned yet")
	}
	panic("not reached")
}

func (l leasing) renewing(ctx context.Context, id string) <-chan outcome[*domain.CacheNode] {
	return begin(func() (*domain.CacheNode, error) {
		node, _, err := l.Renew(ctx, id)
		return node, err
	})
}

func (l leasing) registering(ctx context.Context, spec domain.NodeSpec) <-chan outcome[domain.Change] {
	return begin(func() (domain.Change, error) { return l.nodes.Register(ctx, spec, domain.Condition{}) })
}
