package app_test

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

// admission implements ports.Admission with a function, and records the requests.
type admission struct {
	answer func(ctx context.Context, address string) error

	mu     sync.Mutex
	asked  []string
	times  []time.Time
	wished domain.Instance // in the last request
}

func (a *admission) Ask(ctx context.Context, address string, wished domain.Instance) error {
	a.mu.Lock()
	a.asked, a.times, a.wished = append(a.asked, address), append(a.times, time.Now()), wished
	a.mu.Unlock()
	return a.answer(ctx, address)
}

func (a *admission) questions() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.asked...)
}

func refuse(context.Context, string) error { return errors.New("no") }

func agree(context.Context, string) error { return nil }

func hang(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func becomeMember(s *ports.LocalState) { becomeMemberAs(voter("n1", "h:1"))(s) }

func becomeMemberAs(self domain.Instance) func(*ports.LocalState) {
	return func(s *ports.LocalState) {
		s.Roster, s.Member = domain.NewRoster(self, voter("n2", "h:2")), true
		s.Committed = []ports.CommittedRoster{{Index: 7, Roster: s.Roster}}
	}
}

// joinIntent is ports.JoinIntent without a disk.
type joinIntent struct {
	mu      sync.Mutex
	pending bool
	begun   int
	err     error
}

func (e *joinIntent) JoinPending() (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending, e.err
}

func (e *joinIntent) BeginJoin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending, e.begun = true, e.begun+1
	return e.err
}

func (e *joinIntent) EndJoin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending = false
	return e.err
}

type joining struct {
	*app.Joiner
	joinIntent *joinIntent
	instance   *portstest.Instance
	admission  *admission
	log        *strings.Builder
}

func newJoining(answer func(context.Context, string) error, through ...string) joining {
	j := joining{joinIntent: &joinIntent{}, instance: portstest.NewInstance("n1", "h:1"), admission: &admission{answer: answer}, log: &strings.Builder{}}
	j.instance.Change(func(s *ports.LocalState) { *s = ports.LocalState{} })
	j.Joiner = app.NewJoiner(app.JoinConfig{
		Self:       voter("n1", "h:1"),
		Through:    through,
		Own:        "own:80",
		Local:      j.instance,
		Admission:  j.admission,
		JoinIntent: j.joinIntent,
		Logger:     slog.New(slog.NewTextHandler(j.log, nil)),
	})
	return j
}

func (j joining) open(t *testing.T) {
	t.Helper()
	if err := j.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (j joining) close(t *testing.T) {
	t.Helper()
	if err := j.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (j joining) mustHaveAsked(t *testing.T, want ...string) {
	t.Helper()
	if got := j.admission.questions(); !reflect.DeepEqual(got, want) {
		t.Fatalf("asked %q, want %q", got, want)
	}
}

func (j joining) mustBePending(t *testing.T, want bool) {
	t.Helper()
	if pending, _ := j.joinIntent.JoinPending(); pending != want {
		t.Errorf("JoinPending = %v, want %v", pending, want)
	}
}

func (j joining) mustHaveWished(t *testing.T, want domain.Instance) {
	t.Helper()
	if j.admission.wished != want {
		t.Errorf("instance in the request = %+v, want %+v", j.admission.wished, want)
	}
}
