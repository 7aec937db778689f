package domain_test

import (
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// end describes a node after its expiry. State and From are set only if the node is down.
type end struct {
	Effect domain.Effect
	ID     string
	State  domain.State
	From   domain.State
}

func TestExpire(t *testing.T) {
	mortal := node(t, "m", "h:1", leased(domain.RemoveOnExpiry))
	drowsy := node(t, "d", "h:2", leased(domain.DownOnExpiry))
	resting := node(t, "d", "h:2", leased(domain.DownOnExpiry), inState(domain.Draining))
	stopped := node(t, "d", "h:2", leased(domain.DownOnExpiry), inState(domain.Down))
	lasting := node(t, "l", "h:3")
	nodes := func(n ...domain.NodeAt) []domain.NodeAt { return n }
	removed := func(id string) end { return end{Effect: domain.Removed, ID: id, State: domain.Active} }
	down := func(id string, from domain.State) end {
		return end{Effect: domain.Updated, ID: id, State: domain.Down, From: from}
	}
	ends := func(e ...end) []end { return e }

	tests := map[string]struct {
		given  []domain.Command
		expire []domain.NodeAt
		want   []end
	}{
		"a node is removed":                  {given: list(put(mortal)), expire: nodes(domain.NodeAt{ID: "m", Revision: 1}), want: ends(removed("m"))},
		"a node is made down":                {given: list(put(drowsy)), expire: nodes(domain.NodeAt{ID: "d", Revision: 1}), want: ends(down("d", domain.Active))},
		"a draining node is made down":       {given: list(put(resting)), expire: nodes(domain.NodeAt{ID: "d", Revision: 1}), want: ends(down("d", domain.Draining))},
		"a node that is down can be removed": {given: list(put(node(t, "m", "h:1", leased(domain.RemoveOnExpiry), inState(domain.Down)))), expire: nodes(domain.NodeAt{ID: "m", Revision: 1}), want: ends(end{Effect: domain.Removed, ID: "m", State: domain.Down})},
		"several nodes end in the order given": {
			given:  list(put(drowsy), put(mortal), put(lasting)),
			expire: nodes(domain.NodeAt{ID: "m", Revision: 2}, domain.NodeAt{ID: "d", Revision: 1}), want: ends(removed("m"), down("d", domain.Active))},
		"the other nodes of the command expire all the same": {
			given:  list(put(drowsy), put(mortal), put(lasting)),
			expire: nodes(domain.NodeAt{ID: "x", Revision: 1}, domain.NodeAt{ID: "m", Revision: 2}, domain.NodeAt{ID: "l", Revision: 3}, domain.NodeAt{ID: "d", Revision: 1}),
			want:   ends(removed("m"), down("d", domain.Active))},
		"the revision is that of the node and not of the registry": {
			given: list(put(mortal), put(lasting)), expire: nodes(domain.NodeAt{ID: "m", Revision: 1}), want: ends(removed("m"))},
		"a revived node expires again": {
			given:  list(put(drowsy), expire("d", 1), revive("d")),
			expire: nodes(domain.NodeAt{ID: "d", Revision: 3}), want: ends(down("d", domain.Active))},
		"a node that was down and then asked to be removed is removed": {
			given:  list(put(drowsy), expire("d", 1), put(node(t, "d", "h:2", leased(domain.RemoveOnExpiry), inState(domain.Down)))),
			expire: nodes(domain.NodeAt{ID: "d", Revision: 3}), want: ends(end{Effect: domain.Removed, ID: "d", State: domain.Down})},

		"an empty list expires nothing":                    {given: list(put(mortal))},
		"a node that has changed since is left alone":      {given: list(put(drowsy), put(resting)), expire: nodes(domain.NodeAt{ID: "d", Revision: 1})},
		"a node of a revision to come is left alone":       {given: list(put(mortal)), expire: nodes(domain.NodeAt{ID: "m", Revision: 2})},
		"no node is at revision 0":                         {given: list(put(mortal)), expire: nodes(domain.NodeAt{ID: "m"})},
		"an unknown node is skipped":                       {given: list(put(mortal)), expire: nodes(domain.NodeAt{ID: "x", Revision: 1}, domain.NodeAt{ID: "x"})},
		"a removed node is skipped":                        {given: list(put(mortal), remove("m")), expire: nodes(domain.NodeAt{ID: "m", Revision: 1}, domain.NodeAt{ID: "m", Revision: 2})},
		"a node that was added anew is left alone":         {given: list(put(mortal), remove("m"), put(mortal)), expire: nodes(domain.NodeAt{ID: "m", Revision: 1})},
		"a node without a time to live stays":              {given: list(put(lasting)), expire: nodes(domain.NodeAt{ID: "l", Revision: 1})},
		"a node that gave its time to live up stays":       {given: list(put(mortal), put(node(t, "m", "h:1"))), expire: nodes(domain.NodeAt{ID: "m", Revision: 1}, domain.NodeAt{ID: "m", Revision: 2})},
		"a node that a client put down stays as it is":     {given: list(put(stopped)), expire: nodes(domain.NodeAt{ID: "d", Revision: 1})},
		"a node that is down by expiry stays as it is":     {given: list(put(drowsy), expire("d", 1)), expire: nodes(domain.NodeAt{ID: "d", Revision: 2})},
		"a node that is named twice is removed once":       {given: list(put(mortal)), expire: nodes(domain.NodeAt{ID: "m", Revision: 1}, domain.NodeAt{ID: "m", Revision: 1}), want: ends(removed("m"))},
		"a node that is named twice is made down once":     {given: list(put(drowsy)), expire: nodes(domain.NodeAt{ID: "d", Revision: 1}, domain.NodeAt{ID: "d", Revision: 1}), want: ends(down("d", domain.Active))},
		"a node does not end again at the revision it got": {given: list(put(drowsy)), expire: nodes(domain.NodeAt{ID: "d", Revision: 1}, domain.NodeAt{ID: "d", Revision: 2}), want: ends(down("d", domain.Active))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, test.given...)
			before := contentsOf(r.View())
			changes, err := r.Apply(domain.Expire{Nodes: test.expire})
			if err != nil {
				t.Fatalf("Apply = %v, want success", err)
			}
			after := contentsOf(r.View())
			var got []end
			for i, change := range changes {
				got = append(got, end{change.Effect, change.Node.ID, change.Node.State, change.Node.ExpiredFrom})
				if change.Reason != domain.ByExpiry || change.Revision != before.Revision+domain.Revision(i)+1 {
					t.Errorf("change = %q at revision %d, want %q at %d", change.Reason, change.Revision, domain.ByExpiry, before.Revision+domain.Revision(i)+1)
				}
				mustEqual(t, "the node before", *change.Previous, *before.find(change.Node.ID))
				mustBeAsItIs(t, after, change)
			}
			mustEqual(t, "the expired nodes", got, test.want)
			mustEqual(t, "the history", after.History, append(before.History, changes...))
			if len(changes) == 0 {
				mustEqual(t, "the registry", after, before)
			}
			mustBeSound(t, r)
		})
	}
}

// mustBeAsItIs compares an expired node with the registry: it was removed, or only its
// state has changed.
func mustBeAsItIs(t *testing.T, after contents, change domain.Change) {
	t.Helper()
	is := after.find(change.Node.ID)
	if change.Effect == domain.Removed {
		if is != nil {
			t.Errorf("expired node %q is still in the registry", is.ID)
		}
		mustEqual(t, "a removed node as it was last", *change.Node, *change.Previous)
		return
	}
	want := *change.Previous
	want.State, want.ExpiredFrom, want.Revision = domain.Down, change.Previous.State, change.Revision
	mustEqual(t, "a node that was made down", *change.Node, want)
	mustEqual(t, "a node that was made down, in the registry", *is, want)
}

func TestExpiryKeepsOrFreesAddressAndSlot(t *testing.T) {
	r := registryOf(t, put(node(t, "a", "h:1", leased(domain.RemoveOnExpiry))), put(node(t, "b", "h:2", leased(domain.DownOnExpiry))))
	if changes, err := r.Apply(domain.Expire{Nodes: []domain.NodeAt{{ID: "a", Revision: 1}, {ID: "b", Revision: 2}}}); err != nil || len(changes) != 2 {
		t.Fatalf("Apply = %+v, %v, want 2 changes", changes, err)
	}
	if _, err := r.Apply(put(node(t, "c", "h:2"))); !errors.Is(err, domain.ErrAddressInUse) {
		t.Errorf("put of the address of a node that is down: error = %v, want %v", err, domain.ErrAddressInUse)
	}
	if got := apply(t, r, put(node(t, "c", "h:1"))).Node.Slot; got != 0 {
		t.Errorf("slot of a node after a removal = %d, want 0", got)
	}
	if got := apply(t, r, put(node(t, "d", "h:4"))).Node.Slot; got != 2 {
		t.Errorf("slot of a node beside one that is down = %d, want 2", got)
	}
}

func TestRevive(t *testing.T) {
	drowsy := node(t, "d", "h:2", leased(domain.DownOnExpiry))
	resting := node(t, "d", "h:2", leased(domain.DownOnExpiry), inState(domain.Draining))
	stopped := node(t, "d", "h:2", leased(domain.DownOnExpiry), inState(domain.Down))
	heavy := node(t, "d", "h:2", leased(domain.DownOnExpiry), inState(domain.Down), weighing(7))

	tests := map[string]struct {
		given []domain.Command
		want  domain.Effect
		state domain.State
		err   error
	}{
		"a node that was active is active again":               {given: list(put(drowsy), expire("d", 1)), want: domain.Updated, state: domain.Active},
		"a node that was draining is draining again":           {given: list(put(resting), expire("d", 1)), want: domain.Updated, state: domain.Draining},
		"a node that was put as it is comes back":              {given: list(put(drowsy), expire("d", 1), put(stopped)), want: domain.Updated, state: domain.Active},
		"a node that fell and came back does so again":         {given: list(put(resting), expire("d", 1), revive("d"), expire("d", 3)), want: domain.Updated, state: domain.Draining},
		"an active node stays as it is":                        {given: list(put(drowsy)), want: domain.Unchanged, state: domain.Active},
		"a draining node stays as it is":                       {given: list(put(resting)), want: domain.Unchanged, state: domain.Draining},
		"a node without a time to live stays as it is":         {given: list(put(node(t, "d", "h:2"))), want: domain.Unchanged, state: domain.Active},
		"a node that a client put down stays down":             {given: list(put(stopped)), want: domain.Unchanged, state: domain.Down},
		"a node that expiry could not make down stays down":    {given: list(put(stopped), expire("d", 1)), want: domain.Unchanged, state: domain.Down},
		"a node revived once is left alone":                    {given: list(put(drowsy), expire("d", 1), revive("d")), want: domain.Unchanged, state: domain.Active},
		"a node that a client made active is left alone":       {given: list(put(drowsy), expire("d", 1), put(drowsy)), want: domain.Unchanged, state: domain.Active},
		"a node that a client made draining is left alone":     {given: list(put(drowsy), expire("d", 1), put(resting)), want: domain.Unchanged, state: domain.Draining},
		"a node that a client changed, and left down, is down": {given: list(put(drowsy), expire("d", 1), put(heavy)), want: domain.Unchanged, state: domain.Down},
		"a node that was removed and put down is down":         {given: list(put(drowsy), expire("d", 1), remove("d"), put(stopped)), want: domain.Unchanged, state: domain.Down},
		"a node that is not there is no such node":             {given: list(put(node(t, "a", "h:1"))), err: domain.ErrNoSuchNode},
		"a node that expiry removed is no such node":           {given: list(put(node(t, "d", "h:2", leased(domain.RemoveOnExpiry))), expire("d", 1)), err: domain.ErrNoSuchNode},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, test.given...)
			before := contentsOf(r.View())
			change, err := only(r.Apply(revive("d")))
			after := contentsOf(r.View())
			mustBeSound(t, r)
			if test.err != nil {
				mustBeRefused(t, before, revive("d"), change, err, test.err)
				mustEqual(t, "the registry after a refusal", after, before)
				return
			}
			if err != nil || change.Effect != test.want {
				t.Fatalf("revival = %s, %v, want %s", change.Effect, err, test.want)
			}
			is, was := *after.find("d"), *before.find("d")
			mustEqual(t, "the node of the change", *change.Node, is)
			mustEqual(t, "the node before", *change.Previous, was)
			if change.Reason != domain.ByRequest || change.Revision != after.Revision {
				t.Errorf("change = %q at revision %d, want %q at %d", change.Reason, change.Revision, domain.ByRequest, after.Revision)
			}
			if test.want == domain.Unchanged {
				mustEqual(t, "the registry after no change", after, before)
			} else {
				mustEqual(t, "the history", after.History, append(before.History, change))
				was.ExpiredFrom, was.Revision = "", before.Revision+1
			}
			was.State = test.state
			mustEqual(t, "the node", is, was)
		})
	}
}

func TestAPutReplacesTheStateThatExpirySet(t *testing.T) {
	lease := leased(domain.DownOnExpiry)
	tests := map[string]struct {
		put  domain.CacheNode
		want domain.Effect
		from domain.State // ExpiredFrom afterwards
	}{
		"a put of the state down keeps the former state": {put: node(t, "a", "h:1", lease, inState(domain.Down)), want: domain.Unchanged, from: domain.Draining},
		"a put makes the node active":                    {put: node(t, "a", "h:1", lease), want: domain.Updated},
		"a put makes the node draining":                  {put: node(t, "a", "h:1", lease, inState(domain.Draining)), want: domain.Updated},
		"a put moves the node":                           {put: node(t, "a", "h:9", lease), want: domain.Updated},
		"a put takes the time to live away":              {put: node(t, "a", "h:1"), want: domain.Updated},
		"a put changes the weight as well":               {put: node(t, "a", "h:1", lease, inState(domain.Active), weighing(7)), want: domain.Updated},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, put(node(t, "a", "h:1", lease, inState(domain.Draining))), expire("a", 1))
			change := apply(t, r, put(test.put))
			if change.Effect != test.want || change.Node.State != test.put.State || change.Node.ExpiredFrom != test.from {
				t.Errorf("change = %s to %s, expired from %q, want %s to %s, %q", change.Effect, change.Node.State, change.Node.ExpiredFrom, test.want, test.put.State, test.from)
			}
			if change.Reason != domain.ByRequest {
				t.Errorf("reason = %q, want %q", change.Reason, domain.ByRequest)
			}
			if change.Previous.ExpiredFrom != domain.Draining {
				t.Errorf("the previous node expired from %q, want %q", change.Previous.ExpiredFrom, domain.Draining)
			}
		})
	}
}

func TestANodeKeepsItsPlaceWhileItIsDown(t *testing.T) {
	r := registryOf(t,
		put(node(t, "a", "h:1")), put(node(t, "b", "h:2", leased(domain.DownOnExpiry))), put(node(t, "c", "h:3")), remove("a"))
	for _, cmd := range list(expire("b", 2), revive("b"), expire("b", 6), put(node(t, "b", "h:2", leased(domain.DownOnExpiry)))) {
		got := apply(t, r, cmd)
		if got.Effect != domain.Updated || got.Node.Slot != 1 || got.Node.CreatedRevision != 2 || got.Node.Revision != r.View().Revision() {
			t.Errorf("node after %+v = %+v, want an update in slot 1, created at 2", cmd, *got.Node)
		}
	}
	mustBeSound(t, r)
}

// The state before the expiry must be part of what a registry is restored from.
func TestARestoredNodeRevivesToItsFormerState(t *testing.T) {
	r := registryOf(t, put(node(t, "a", "h:1", leased(domain.DownOnExpiry), inState(domain.Draining))), expire("a", 1))
	if got := apply(t, restore(t, r.View()), revive("a")); got.Effect != domain.Updated || got.Node.State != domain.Draining {
		t.Errorf("revival = %s to %s, want an update to %s", got.Effect, got.Node.State, domain.Draining)
	}
}
