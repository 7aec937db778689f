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

// far is answer of an instance that has come so far in the log.
func far(id string, applied uint64) ports.Identity {
	identity := answer(id)
	identity.Applied = applied
	return identity
}

// process is answer of an instance that has all, in a process.
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
		"a new voter that answers is one":                         {answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"a new nonvoter that answers is one":                      {answers: new(far("n3", 0)), wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"who belongs to no cluster yet is welcome":                {answers: &blank, wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"where nobody answers is no instance":                     {wanted: voter("n3", "h:3"), err: domain.ErrUnreachable, asks: true},
		"where nobody answers is no nonvoter":                     {wanted: nonvoter("n3", "h:3"), err: domain.ErrUnreachable, asks: true},
		"another instance is not it":                              {answers: new(far("n4", 100)), wanted: voter("n3", "h:3"), err: domain.ErrIDMismatch, asks: true},
		"an instance of another cluster stays there":              {answers: &stranger, wanted: voter("n9", "h:3"), err: domain.ErrOtherCluster, asks: true},
		"an address in use is refused before anybody is asked":    {answers: new(far("n3", 100)), wanted: voter("n3", "h:2"), err: domain.ErrAddressInUse},
		"a nonvoter becomes a voter":                              {members: []domain.Instance{nonvoter("n3", "h:3")}, answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"a nonvoter that is silent becomes none":                  {members: []domain.Instance{nonvoter("n3", "h:3")}, wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: domain.ErrUnreachable, asks: true},
		"a voter becomes a nonvoter, dead or not":                 {members: []domain.Instance{voter("n3", "h:3")}, wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3")},
		"a voter moves at once":                                   {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves at once, whatever it lacks":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 1)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves nowhere where nobody answers":              {members: []domain.Instance{voter("n3", "h:4")}, wanted: voter("n3", "h:3"), want: voter("n3", "h:4"), err: domain.ErrUnreachable, asks: true},
		"no voter moves to who is another process":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:4"), err: domain.ErrIDInUse, asks: true},
		"no nonvoter moves to who is another process":             {members: []domain.Instance{nonvoter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:4"), err: domain.ErrIDInUse, asks: true},
		"the leader does not move to who is another process":      {answers: new(process("n1", "P2")), wanted: voter("n1", "h:3"), want: voter("n1", "h:1"), err: domain.ErrIDInUse, asks: true},
		"the leader moves to where it answers itself":             {answers: new(process("n1", "P0")), wanted: voter("n1", "h:3"), want: voter("n1", "h:3"), asks: true},
		"one process may answer at both addresses":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P1")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"who does not say which process it is may move":           {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 100)), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves from who does not say which process it is": {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"a voter moves from where another instance answers now":   {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n4", "P1")), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), asks: true},
		"forced: a voter moves to another process":                {members: []domain.Instance{voter("n3", "h:4")}, answers: new(process("n3", "P2")), before: new(process("n3", "P1")), wanted: voter("n3", "h:3"), force: true, want: voter("n3", "h:3")},
		"a nonvoter moves":                                        {members: []domain.Instance{nonvoter("n3", "h:4")}, answers: new(far("n3", 1)), wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"a nonvoter moves and becomes a voter":                    {members: []domain.Instance{nonvoter("n3", "h:4")}, answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"a voter moves and becomes a nonvoter":                    {members: []domain.Instance{voter("n3", "h:4")}, answers: new(far("n3", 1)), wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3"), asks: true},
		"what it is already is nothing to be asked for":           {members: []domain.Instance{voter("n3", "h:3")}, wanted: voter("n3", "h:3"), want: voter("n3", "h:3")},
		"a nonvoter that it is already is nothing to be asked":    {members: []domain.Instance{nonvoter("n3", "h:3")}, wanted: nonvoter("n3", "h:3"), want: nonvoter("n3", "h:3")},
		"the leader moves":                                        {answers: new(far("n1", 100)), wanted: voter("n1", "h:3"), want: voter("n1", "h:3"), asks: true},
		"the leader does not move to where it does not answer":    {wanted: voter("n1", "h:3"), want: voter("n1", "h:1"), err: domain.ErrUnreachable, asks: true},
		"forced: who is silent is a nonvoter after a while":       {wanted: voter("n3", "h:3"), force: true, want: nonvoter("n3", "h:3"), takes: 2 * time.Second, asks: true},
		"forced: another cluster's instance never is a voter":     {answers: &stranger, wanted: voter("n9", "h:3"), force: true, want: nonvoter("n9", "h:3"), takes: 2 * time.Second, asks: true},
		"forced: another instance never is a voter":               {answers: new(far("n4", 100)), wanted: voter("n3", "h:3"), force: true, want: nonvoter("n3", "h:3"), takes: 2 * time.Second, asks: true},
		"forced: who answers is a voter":                          {answers: new(far("n3", 100)), wanted: voter("n3", "h:3"), force: true, want: voter("n3", "h:3"), takes: 50 * time.Millisecond, asks: true},
		"forced: a nonvoter is not asked":                         {wanted: nonvoter("n3", "h:3"), force: true, want: nonvoter("n3", "h:3")},
		"forced: another cluster's nonvoter is not asked":         {answers: &stranger, wanted: nonvoter("n9", "h:3"), force: true, want: nonvoter("n9", "h:3")},
		"forced: a voter moves without being asked":               {members: []domain.Instance{voter("n3", "h:4")}, wanted: voter("n3", "h:3"), force: true, want: voter("n3", "h:3")},
		"forced: an address in use stays in use":                  {wanted: voter("n3", "h:2"), force: true, err: domain.ErrAddressInUse},
		"who lags is a nonvoter when the time is over":            {answers: new(far("n3", 99)), wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown, takes: 5 * time.Second, asks: true},
		"who has applied nothing is one, too":                     {answers: &blank, wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown, takes: 5 * time.Second, asks: true},
		"a voter that comes back blank counts no more until then": {members: []domain.Instance{voter("n3", "h:4")}, answers: &blank, wanted: voter("n3", "h:3"), want: nonvoter("n3", "h:3"), err: ports.ErrOutcomeUnknown, takes: 5 * time.Second, asks: true},
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

// With a context that has ended, nothing happens, and that is no refusal.
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

// The time of the asker is over while the instance is asked: that says nothing
// about the instance.
func TestAddOfAnInstanceThatAnswersSlowly(t *testing.T) {
	for name, test := range map[string]struct {
		bound, takes time.Duration
		err          error
	}{
		"it has a second":              {time.Minute, time.Second, domain.ErrUnreachable},
		"and no longer than the asker": {300 * time.Millisecond, 300 * time.Millisecond, context.DeadlineExceeded},
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

// Whoever is asked takes its time, in which another request may be quicker.
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
		"no voter moves to who is another process, though it is one only since then": {
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n3", "h:3")) },
			answers:   map[string]ports.Identity{"h:3": first, "h:4": second},
			wanted:    voter("n3", "h:4"), want: voter("n3", "h:3"), err: domain.ErrIDInUse, asks: 2,
		},
		"nor does one that has moved since then": {
			before:    []domain.Instance{voter("n3", "h:9")},
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n3", "h:3")) },
			answers:   map[string]ports.Identity{"h:3": first, "h:4": second},
			wanted:    voter("n3", "h:4"), want: voter("n3", "h:3"), err: domain.ErrIDInUse, asks: 2,
		},
		"one that has moved since then moves on, where that is it": {
			before:    []domain.Instance{nonvoter("n3", "h:9")},
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), nonvoter("n3", "h:3")) },
			answers:   map[string]ports.Identity{"h:3": first, "h:4": first},
			wanted:    nonvoter("n3", "h:4"), want: nonvoter("n3", "h:4"), asks: 2,
		},
		"one that is what it is to be since then is asked no more": {
			meanwhile: func(i *portstest.Instance) error { return i.Add(t.Context(), voter("n3", "h:4")) },
			answers:   map[string]ports.Identity{"h:4": first},
			wanted:    voter("n3", "h:4"), want: voter("n3", "h:4"), asks: 1,
		},
		"one that was removed since then is added, if it answers": {
			before:    []domain.Instance{voter("n3", "h:9")},
			meanwhile: func(i *portstest.Instance) error { return i.Remove(t.Context(), "n3") },
			answers:   map[string]ports.Identity{"h:4": first},
			wanted:    nonvoter("n3", "h:4"), want: nonvoter("n3", "h:4"), asks: 2,
		},
		"what happens to others does not matter": {
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

// Two that change it in turn, for ever: each try ends within the time of the asker.
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
		"a follower":             ports.ErrNotLeader,
		"one that is closed":     ports.ErrClosed,
		"one that does not know": ports.ErrOutcomeUnknown,
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

// A leader that made itself a nonvoter could leave the cluster without any for ever.
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
		"a voter":           {to: "n3", want: "n3"},
		"another voter":     {to: "n2", want: "n2"},
		"the leader itself": {to: "n1", want: "n1"},
		"a nonvoter":        {to: "n4", err: domain.ErrNotVoter},
		"a stranger":        {to: "n9", err: domain.ErrNoSuchInstance},
		"nobody":            {want: "n2"},
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
	t.Run("nobody, by the only voter", func(t *testing.T) {
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
	t.Run("nobody, where the only voter is another one", func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		mustAdd(t, i, nonvoter("n4", "h:4"))
		i.Change(func(s *ports.LocalState) { s.Leading = false })
		if _, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), ""); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
		}
	})
	t.Run("itself, by one that does not lead", func(t *testing.T) {
		i := portstest.NewInstance("n1", "h:1")
		i.FailWith(ports.ErrNotLeader)
		if _, err := newCluster(i, portstest.NewPeers()).HandOver(t.Context(), "n1"); !errors.Is(err, ports.ErrNotLeader) {
			t.Errorf("error = %v, want %v", err, ports.ErrNotLeader)
		}
	})
}
