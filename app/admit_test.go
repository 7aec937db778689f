package app_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func nonvoter(id, raftAddress string) domain.Instance {
	return domain.Instance{ID: id, RaftAddress: raftAddress, Suffrage: domain.Nonvoter}
}

// far is the answer of an instance that has applied the log up to an index.
func far(id string, applied uint64) ports.Identity {
	identity := answer(id)
	identity.Applied = applied
	return identity
}

// process is the answer of an instance that has applied the whole log and names its process.
func process(id, of string) ports.Identity {
	identity := far(id, 100)
	identity.Process = of
	return identity
}

// promoting is a leader n1, with a follower n2, whose log is at index 100.
type promoting struct {
	*app.Cluster
	instance, follower *portstest.Instance
	peers              *portstest.Peers
}

func openPromoting(t *testing.T) promoting {
	t.Helper()
	p := promoting{instance: portstest.NewInstance("n1", "h:1"), peers: portstest.NewPeers()}
	p.follower = p.instance.NewFollower("n2", "h:2")
	for _, i := range []*portstest.Instance{p.instance, p.follower} {
		i.Change(func(s *ports.LocalState) { s.Applied = 100 })
	}
	p.peers.Answer("h:2", far("n2", 100))
	p.Cluster = newCluster(p.instance, p.peers)
	if err := p.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// eachPromoting runs each of the tests with one of its own, in a bubble.
func eachPromoting(t *testing.T, tests map[string]func(*testing.T, promoting)) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := openPromoting(t)
				defer p.close(t)
				test(t, p)
			})
		})
	}
}

func (p promoting) close(t *testing.T) {
	t.Helper()
	if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func (p promoting) mustHave(t *testing.T, want domain.Instance) {
	t.Helper()
	state, _ := p.instance.State()
	if got, _ := state.Roster.Find(want.ID); got != want {
		t.Errorf("membership after %s has %+v, want %+v", time.Since(started), got, want)
	}
}

func (p promoting) mustWant(t *testing.T, want ...string) {
	t.Helper()
	state, _ := p.instance.State()
	if got := strings.Join(state.Promotions, " "); got != strings.Join(want, " ") {
		t.Errorf("promotions = %q, want %q", got, want)
	}
}

// started is when every bubble of synctest begins.
var started = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestAdd(t *testing.T) {
	stranger := ports.Identity{RaftID: "n9", ApplicationAddress: "app9:80", ClusterID: "cluster-of-n9"}
	blank := ports.Identity{RaftID: "n3"}
	tests := map[string]struct {
		members []domain.Instance // beside n1 and n2
		answers *ports.Identity   // at h:3
		before  *ports.Identity   // at h:4
		wanted  domain.Instance
		force   bool

		want  domain.Instance // zero: no member
		err   error
		takes time.Duration // until it is answered
		asks  bool
	}{
		"a new voter that answers is added":                       {answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"a new nonvoter that answers is added":                    {answers: new(far("n3", 0)), wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"an instance without a cluster is added":                  {answers: &blank, wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"a new voter that does not answer is not added":           {wanted: voter("n3", "h:3"), err: domain.ErrUnreachable, asks: true},
		"a new nonvoter that does not answer is not added":        {wanted: nonvoter("n3", "h:3"), err: domain.ErrUnreachable, asks: true},
		"another instance at the address is refused":              {answers: new(far("n4", 100)), wanted: voter("n3", "h:3"), err: domain.ErrIDMismatch, asks: true},
		"an instance of another cluster is refused":               {answers: &stranger, wanted: voter("n9", "h:3"), err: domain.ErrOtherCluster, asks: true},
		"an address in use is refused before anybody is asked":    {answers: new(far("n3", 100)), wanted: voter("n3", "h:2"), err: domain.ErrAddressInUse},
		"a nonvoter becomes a voter":                              {members: []domain.Instance{nonvoter("n3", "h:3")}, answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"a nonvoter that does not answer does not become a voter": {members: []domain.Instance{nonvoter("n3", "h:3")}, wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: domain.ErrUnreachable, asks: true},
		"a voter becomes a nonvoter, dead or not":                 {members: []domain.Instance{voter("n3", "h:3")}, wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3")},
		"a voter moves at once":                                   {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves at once, even if it lags":                  {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 1)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter does not move to where nobody answers":           {members: []domain.Instance{voter("n3", "h:4")}, wanted: voter("n3", "h:3"), want: voter("n3", "h:4"), err: domain.ErrUnreachable, asks: true},
		"a voter does not move to another process":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:4"), err: domain.ErrIDInUse, asks: true},
		"a nonvoter does not move to another process":             {members: []domain.Instance{nonvoter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:4"), err: domain.ErrIDInUse, asks: true},
		"the leader does not move to another process":             {answers: new(process("n1", "P2")), wanted: voter("n1", "h:3"), want: voter("n1", "h:1"), err: domain.ErrIDInUse, asks: true},
		"the leader moves to an address of its own process":       {answers: new(process("n1", "P0")), wanted: voter("n1", "h:3"), want: voter("n1", "h:3"), asks: true},
		"one process may answer at both addresses":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P1")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter that does not name its process moves":            {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 100)), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves if its old process is not named":           {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves if another instance is at its old address": {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n4", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"forced: a voter moves to another process":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), force: true, want: voter("n3", "h:3")},
		"a nonvoter moves":                                        {members: []domain.Instance{nonvoter("n3", "h:4")}, answers: new(far("n3", 1)), wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"a nonvoter moves and becomes a voter":                    {members: []domain.Instance{nonvoter("n3", "h:4")}, answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"a voter moves and becomes a nonvoter":                    {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 1)), wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"a voter that is added again is not asked":                {members: []domain.Instance{voter("n3", "h:3")}, wanted: voter("n3", "h:3"), want: voter("n3", "h:3")},
		"a nonvoter that is added again is not asked":             {members: []domain.Instance{nonvoter("n3", "h:3")}, wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3")},
		"the leader moves":                                        {answers: new(far("n1", 100)), wanted: voter("n1", "h:3"), want: voter("n1", "h:3"), asks: true},
		"the leader does not move to where it does not answer":    {wanted: voter("n1", "h:3"), want: voter("n1", "h:1"), err: domain.ErrUnreachable, asks: true},
		"forced: a silent instance is a nonvoter after a while":   {wanted: voter("n3", "h:3"), force: true, want: nonvoter("n3", "h:3"), takes: 2 * time.Second, asks: true},
		"forced: an instance of another cluster is a nonvoter":    {answers: &stranger, wanted: voter("n9", "h:3"), force: true, want: nonvoter("n9", "h:3"), takes: 2 * time.Second, asks: true},
		"forced: an instance with another id is a nonvoter":       {answers: new(far("n4", 100)), wanted: voter("n3", "h:3"), force: true, want: nonvoter("n3", "h:3"), takes: 2 * time.Second, asks: true},
		"forced: an instance that answers is a voter":             {answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), force: true, want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"forced: a nonvoter is not asked":                         {wanted: nonvoter("n3", "h:3"), force: true, want: nonvoter("n3", "h:3")},
		"forced: another cluster's nonvoter is not asked":         {answers: &stranger, wanted: nonvoter("n9", "h:3"), force: true, want: nonvoter("n9", "h:3")},
		"forced: a voter moves without being asked":               {members: []domain.Instance{voter("n3", "h:4")}, wanted: voter("n3", "h:3"), force: true, want: voter("n3", "h:3")},
		"forced: an address in use stays in use":                  {wanted: voter("n3", "h:2"), force: true, err: domain.ErrAddressInUse},
		"an instance that lags is a nonvoter at the deadline":     {answers: new(far("n3", 99)), wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown, takes: 5 * time.Second, asks: true},
		"an instance that has applied nothing is one, too":        {answers: &blank, wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown, takes: 5 * time.Second, asks: true},
		"a voter that comes back blank is demoted until then":     {members: []domain.Instance{voter("n3", "h:4")}, answers: &blank, wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown, takes: 5 * time.Second, asks: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := openPromoting(t)
				defer p.close(t)
				mustAdd(t, p.instance, test.members...)
				if test.answers != nil {
					p.peers.Answer("h:3", *test.answers)
				}
				if test.before != nil {
					p.peers.Answer("h:4", *test.before)
				}
				synctest.Wait() // until those have looked who watch
				asked := p.peers.Asked("h:3")
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				began := time.Now()
				got, err := p.Add(ctx, test.wanted, test.force)
				if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Fatalf("error = %v, want %v", err, test.err)
				}
				if err == nil && got != test.want {
					t.Errorf("Add = %+v, want %+v", got, test.want)
				}
				if took := time.Since(began); took != test.takes {
					t.Errorf("Add took %v, want %v", took, test.takes)
				}
				// Those who watch ask a member as well.
				if now := p.peers.Asked("h:3"); test.asks && now == asked || !test.asks && test.err != nil && now != asked {
					t.Errorf("identity requests = %d, want none before a refusal: %v", now-asked, !test.asks)
				}
				if test.want != (domain.Instance{}) {
					p.mustHave(t, test.want)
				} else if state, _ := p.instance.State(); state.Roster.Voters() != 2 || len(state.Roster.Instances()) != 2 {
					t.Errorf("members after a refusal = %+v, want n1 and n2", state.Roster)
				}
			})
		})
	}
}

// An ended context is neither a refusal nor an unknown outcome.
func TestAddWithAnEndedContextDoesNothing(t *testing.T) {
	for name, force := range map[string]bool{"asking": false, "forced": true} {
		t.Run(name, func(t *testing.T) {
			p := openPromoting(t)
			defer p.close(t)
			p.peers.Answer("h:3", far("n3", 100))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := p.Add(ctx, voter("n3", "h:3"), force); !errors.Is(err, context.Canceled) || errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("error = %v, want only context.Canceled", err)
			}
			p.mustHave(t, domain.Instance{})
			p.mustWant(t)
		})
	}
}

// If the deadline of the caller passes while the instance is asked, that says nothing
// about the instance.
func TestAddOfAnInstanceThatAnswersSlowly(t *testing.T) {
	for name, test := range map[string]struct {
		bound, takes time.Duration
		err          error
	}{
		"the instance has a second to answer": {time.Minute, time.Second, domain.ErrUnreachable},
		"and no longer than the caller waits": {300 * time.Millisecond, 300 * time.Millisecond, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := portstest.NewInstance("n1", "h:1")
				c := newCluster(i, peersFunc(func(ctx context.Context, _ string) (ports.Identity, error) {
					<-ctx.Done()
					return ports.Identity{}, ctx.Err()
				}))
				ctx, cancel := context.WithTimeout(t.Context(), test.bound)
				defer cancel()
				began := time.Now()
				_, err := c.Add(ctx, voter("n3", "h:3"), false)
				if !errors.Is(err, test.err) || errors.Is(err, ports.ErrOutcomeUnknown) || time.Since(began) != test.takes {
					t.Errorf("error after %v = %v, want %v after %v", time.Since(began), err, test.err, test.takes)
				}
			})
		})
	}
}

// While an instance is asked for its identity, another request may change it.
func TestAddOfAnInstanceThatAnotherRequestChanges(t *testing.T) {
	first, second := process("n3", "P1"), process("n3", "P2")
	tests := map[string]struct {
		before    []domain.Instance
		meanwhile func(i *portstest.Instance) error // when h:4 is asked the first time
		answers   map[string]ports.Identity
		wanted    domain.Instance

		want domain.Instance // zero: no member
		err  error
		asks int // at h:4
	}{
		"an instance that has become a voter does not move to another process": {
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n3", "h:3")) },
			answers:   map[string]ports.Identity{"h:3": first, "h:4": second},
			wanted:    voter("n3", "h:4"), want: voter("n3", "h:3"), err: domain.ErrIDInUse, asks: 2,
		},
		"an instance that has moved does not move to another process": {
			before:    []domain.Instance{voter("n3", "h:9")},
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n3", "h:3")) },
			answers:   map[string]ports.Identity{"h:3": first, "h:4": second},
			wanted:    voter("n3", "h:4"), want: voter("n3", "h:3"), err: domain.ErrIDInUse, asks: 2,
		},
		"an instance that has moved moves on to its own process": {
			before:    []domain.Instance{nonvoter("n3", "h:9")},
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), nonvoter("n3", "h:3")) },
			answers:   map[string]ports.Identity{"h:3": first, "h:4": first},
			wanted:    nonvoter("n3", "h:4"), want: nonvoter("n3", "h:4"), asks: 2,
		},
		"an instance that has become what was asked for is not asked again": {
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n3", "h:4")) },
			answers:   map[string]ports.Identity{"h:4": first},
			wanted:    voter("n3", "h:4"), want: voter("n3", "h:4"), asks: 1,
		},
		"an instance that was removed is added if it answers": {
			before:    []domain.Instance{voter("n3", "h:9")},
			meanwhile: func(i *portstest.Instance) error { return i.Remove(t.Context(), "n3") },
			answers:   map[string]ports.Identity{"h:4": first},
			wanted:    nonvoter("n3", "h:4"), want: nonvoter("n3", "h:4"), asks: 2,
		},
		"changes of other instances do not matter": {
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n5", "h:5")) },
			answers:   map[string]ports.Identity{"h:4": first},
			wanted:    nonvoter("n3", "h:4"), want: nonvoter("n3", "h:4"), asks: 1,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i, asks := portstest.NewInstance("n1", "h:1"), 0
			mustAdd(t, i, test.before...)
			c := newCluster(i, peersFunc(func(_ context.Context, address string) (ports.Identity, error) {
				if address == "h:4" {
					if asks++; asks == 1 {
						if err := test.meanwhile(i); err != nil {
							t.Error(err)
						}
					}
				}
				if identity, answers := test.answers[address]; answers {
					return identity, nil
				}
				return ports.Identity{}, errors.New("nobody answers")
			}))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := c.Add(ctx, test.wanted, false); !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error = %v, want %v", err, test.err)
			}
			state, _ := i.State()
			if got, _ := state.Roster.Find("n3"); got != test.want || asks != test.asks {
				t.Errorf("membership after %d requests has %+v, want %+v after %d", asks, got, test.want, test.asks)
			}
		})
	}
}

// Each time that the instance is asked, its address has changed. Add must end with
// its context all the same.
func TestAddOfAnInstanceThatKeepsChangingEndsInTime(t *testing.T) {
	i := portstest.NewInstance("n1", "h:1")
	ctx, cancel := context.WithCancel(t.Context())
	asks := 0
	c := newCluster(i, peersFunc(func(context.Context, string) (ports.Identity, error) {
		if asks++; asks == 10 {
			cancel()
		}
		return process("n3", "P1"), i.Add(context.WithoutCancel(ctx), nonvoter("n3", fmt.Sprint("h:", 10+asks)))
	}))
	if _, err := c.Add(ctx, nonvoter("n3", "h:4"), false); !errors.Is(err, context.Canceled) || errors.Is(err, ports.ErrOutcomeUnknown) {
		t.Errorf("error after %d requests = %v, want only context.Canceled", asks, err)
	}
}

func TestAddTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := openPromoting(t)
		defer p.close(t)
		p.peers.Answer("h:3", far("n3", 1))
		answers := make(chan error)
		for range 2 {
			go func() {
				_, err := p.Add(t.Context(), voter("n3", "h:3"), false)
				answers <- err
			}()
		}
		time.Sleep(time.Second)
		p.mustHave(t, nonvoter("n3", "h:3"))
		p.peers.Answer("h:3", far("n3", 100))
		for range 2 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		p.mustHave(t, voter("n3", "h:3"))
		synctest.Wait()
		p.mustWant(t)
	})
}

func TestAddAtAnInstanceThatCannotAdd(t *testing.T) {
	for name, test := range map[string]error{
		"a follower":         ports.ErrNotLeader,
		"a closed instance":  ports.ErrClosed,
		"an unknown outcome": ports.ErrOutcomeUnknown,
	} {
		t.Run(name, func(t *testing.T) {
			i, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
			i.FailWith(test)
			if _, err := newCluster(i, peers).Add(t.Context(), voter("n3", "h:3"), false); !errors.Is(err, test) {
				t.Errorf("error = %v, want %v", err, test)
			}
			if peers.Asked("h:3") != 0 {
				t.Error("an instance that cannot add asked the new instance for its identity")
			}
		})
	}
}

// A leader that made itself a nonvoter could leave the cluster without a leader for ever.
func TestALeaderHandsOverBeforeItBecomesANonvoter(t *testing.T) {
	for name, force := range map[string]bool{"asked": false, "forced": true} {
		t.Run(name, func(t *testing.T) {
			i := portstest.NewInstance("n1", "h:1")
			mustAdd(t, i, voter("n2", "h:2"))
			if _, err := newCluster(i, portstest.NewPeers()).Add(t.Context(), nonvoter("n1", "h:1"), force); !errors.Is(err, ports.ErrNotLeader) {
				t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
			}
			state, _ := i.State()
			if self, _ := state.Roster.Find("n1"); state.Leading || self.Suffrage != domain.Voter {
				t.Errorf("n1 leads = %v as a %s, want a voter that does not lead", state.Leading, self.Suffrage)
			}
		})
	}
}

func TestHandOverToTheNamedInstance(t *testing.T) {
	tests := map[string]struct {
		to   string
		want string
		err  error
	}{
		"a voter":             {to: "n3", want: "n3"},
		"another voter":       {to: "n2", want: "n2"},
		"the leader itself":   {to: "n1", want: "n1"},
		"a nonvoter":          {to: "n4", err: domain.ErrNotVoter},
		"an unknown instance": {to: "n9", err: domain.ErrNoSuchInstance},
		"no instance":         {want: "n2"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i := portstest.NewInstance("n1", "h:1")
			mustAdd(t, i, voter("n2", "h:2"), voter("n3", "h:3"), nonvoter("n4", "h:4"))
			got, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), test.to)
			if got != test.want || !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("HandOver = %q, %v, want %q, %v", got, err, test.want, test.err)
			}
		})
	}
	t.Run("no instance, by the only voter", func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		mustAdd(t, i, nonvoter("n4", "h:4"))
		if _, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), ""); !errors.Is(err, domain.ErrLastVoter) {
			t.Errorf("error = %v, want %v", err, domain.ErrLastVoter)
		}
	})
	t.Run("a nonvoter, by the only voter", func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		mustAdd(t, i, nonvoter("n4", "h:4"))
		if _, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), "n4"); !errors.Is(err, domain.ErrNotVoter) {
			t.Errorf("error = %v, want %v", err, domain.ErrNotVoter)
		}
	})
	t.Run("no instance, where the only voter is another one", func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		mustAdd(t, i, nonvoter("n4", "h:4"))
		i.Change(func(s *ports.LocalState) { s.Leading = false })
		if _, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), ""); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
		}
	})
	t.Run("itself, by an instance that does not lead", func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		i.FailWith(ports.ErrNotLeader)
		if _, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), "n1"); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
		}
	})
}
