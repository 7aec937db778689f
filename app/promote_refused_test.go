package app_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
	"github.com/nodesmetadata/nodesmetadata/ports/portstest"
)

func adding(wanted domain.Instance) func(context.Context, *app.Cluster) error {
	return func(ctx context.Context, c *app.Cluster) error {
		_, err := c.Add(ctx, wanted, false)
		return err
	}
}

func removing(id string) func(context.Context, *app.Cluster) error {
	return func(ctx context.Context, c *app.Cluster) error {
		_, err := c.Remove(ctx, id)
		return err
	}
}

// refusing is an instance that refuses a step: that of the membership, all but the first time.
type refusing struct {
	*portstest.Instance
	step    string
	rosters atomic.Int64
}

func (r *refusing) AddPromotion(ctx context.Context, id string) error {
	if r.step == "want" {
		return ports.ErrBusy
	}
	return r.Instance.AddPromotion(ctx, id)
}

func (r *refusing) RemovePromotion(ctx context.Context, id string) error {
	if r.step == "settle" {
		return ports.ErrBusy
	}
	return r.Instance.RemovePromotion(ctx, id)
}

func (r *refusing) Roster(ctx context.Context) (domain.Roster, error) {
	if r.step == "roster" && r.rosters.Add(1) > 1 {
		return domain.Roster{}, ports.ErrBusy
	}
	return r.Instance.Roster(ctx)
}

// A request whose first step fails changes nothing, and its caller is told so.
func TestARequestWhoseFirstStepFailsChangesNothing(t *testing.T) {
	tests := map[string]struct {
		step string
		ask  func(context.Context, *app.Cluster) error
	}{
		"a voter whose promotion can't be begun":      {"want", adding(voter("n4", "h:4"))},
		"a nonvoter whose promotion can't be settled": {"settle", adding(nonvoter("n3", "h:3"))},
		"a removal whose promotion can't be settled":  {"settle", removing("n3")},
		"a voter if the membership can't be read":     {"roster", adding(voter("n4", "h:4"))},
		"a nonvoter if the membership can't be read":  {"roster", adding(nonvoter("n4", "h:4"))},
		"a removal if the membership can't be read":   {"roster", removing("n3")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			i, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
			peers.Answer("h:4", far("n4", 0))
			mustAdd(t, i, nonvoter("n3", "h:3"))
			if err := i.AddPromotion(t.Context(), "n3"); err != nil {
				t.Fatal(err)
			}
			before, _ := i.State()
			r := &refusing{Instance: i, step: test.step}
			c := newCluster(r, peers)
			if err := test.ask(t.Context(), c); !errors.Is(err, ports.ErrBusy) || errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("error = %v, want only %v", err, ports.ErrBusy)
			}
			if after, _ := i.State(); !after.Roster.Equal(before.Roster) || !slices.Equal(after.Promotions, before.Promotions) {
				t.Errorf("membership = %+v and promotions = %q, want them as before", after.Roster, after.Promotions)
			}
		})
	}
}

// unsure is an instance whose first RemovePromotion is still on its way through the log when the
// time of who asked is over: it takes effect before what is written after it, or when it arrives.
type unsure struct {
	*portstest.Instance
	t     *testing.T
	begun bool
	onWay string // the id, until then
}

func (u *unsure) arrive() {
	if id := u.onWay; id != "" {
		u.onWay = ""
		if err := u.Instance.RemovePromotion(u.t.Context(), id); err != nil {
			u.t.Error(err)
		}
	}
}

func (u *unsure) RemovePromotion(ctx context.Context, id string) error {
	if !u.begun {
		u.begun, u.onWay = true, id
		return ports.ErrOutcomeUnknown
	}
	u.arrive()
	return u.Instance.RemovePromotion(ctx, id)
}

func (u *unsure) AddPromotion(ctx context.Context, id string) error {
	u.arrive()
	return u.Instance.AddPromotion(ctx, id)
}

// The delayed end of an earlier promotion must not end a later one.
func TestAPromotionOutlivesTheEndOfAnEarlierOne(t *testing.T) {
	tests := map[string]struct {
		ends    func(context.Context, *app.Cluster) error // the earlier one
		answers string                                    // where n3 does
		wanted  domain.Instance
	}{
		"ended by a removal":        {ends: removing("n3"), answers: "h:3", wanted: voter("n3", "h:3")},
		"ended by a demotion":       {ends: adding(nonvoter("n3", "h:3")), answers: "h:3", wanted: voter("n3", "h:3")},
		"of an instance that moves": {ends: removing("n3"), answers: "h:4", wanted: voter("n3", "h:4")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i, peers := portstest.NewInstance("n1", "h:1"), portstest.NewPeers()
				peers.Answer(test.answers, far("n3", 1))
				mustAdd(t, i, nonvoter("n3", "h:3"))
				if err := i.AddPromotion(t.Context(), "n3"); err != nil {
					t.Fatal(err)
				}
				u := &unsure{Instance: i, t: t}
				c := newCluster(u, peers)
				if err := test.ends(t.Context(), c); !errors.Is(err, ports.ErrOutcomeUnknown) {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := c.Add(ctx, test.wanted, false); !errors.Is(err, ports.ErrOutcomeUnknown) {
					t.Errorf("error while the end of the earlier promotion is under way = %v, want %v", err, ports.ErrOutcomeUnknown)
				}
				u.arrive()
				if state, _ := i.State(); !slices.Equal(state.Promotions, []string{"n3"}) {
					t.Errorf("promotions = %q, want n3", state.Promotions)
				}
			})
		})
	}
}

// Another instance may take the address while the new one is asked.
func TestAnAddressThatIsTakenMeanwhileIsRefused(t *testing.T) {
	for name, wanted := range map[string]domain.Instance{"for a voter": voter("n3", "h:3"), "for a nonvoter": nonvoter("n3", "h:3")} {
		t.Run(name, func(t *testing.T) {
			i := portstest.NewInstance("n1", "h:1")
			c := newCluster(i, peersFunc(func(ctx context.Context, _ string) (ports.Identity, error) {
				return far("n3", 100), i.Add(ctx, nonvoter("n4", "h:3"))
			}))
			if _, err := c.Add(t.Context(), wanted, false); !errors.Is(err, domain.ErrAddressInUse) || errors.Is(err, ports.ErrOutcomeUnknown) {
				t.Errorf("error = %v, want only %v", err, domain.ErrAddressInUse)
			}
			if state, _ := i.State(); len(state.Promotions) > 0 {
				t.Errorf("promotions = %q, want none", state.Promotions)
			}
		})
	}
}
