package domain_test

import (
	"errors"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestApply(t *testing.T) {
	a, b, c := node(t, "a", "h:1"), node(t, "b", "h:2"), node(t, "c", "h:3")
	heavyA := node(t, "a", "h:1", weighing(7))
	aAt := func(address string) domain.CacheNode { return node(t, "a", address) }
	bAt := func(address string) domain.CacheNode { return node(t, "b", address) }

	tests := map[string]struct {
		given []domain.Command
		do    domain.Command
		want  domain.Effect
		err   error
	}{
		"a new node is added":                           {do: put(a), want: domain.Added},
		"a known node is replaced":                      {given: list(put(a)), do: put(heavyA), want: domain.Updated},
		"a node that is the same is left alone":         {given: list(put(a)), do: put(a), want: domain.Unchanged},
		"a node is removed":                             {given: list(put(a)), do: remove("a"), want: domain.Removed},
		"a removed node can be added again":             {given: list(put(a), remove("a")), do: put(a), want: domain.Added},
		"a node that is not there can't be removed":     {given: list(put(a)), do: remove("b"), err: domain.ErrNoSuchNode},
		"a node can't be removed twice":                 {given: list(put(a), remove("a")), do: remove("a"), err: domain.ErrNoSuchNode},
		"nothing can be removed from an empty registry": {do: remove("a"), err: domain.ErrNoSuchNode},

		"an address has one owner":                         {given: list(put(a)), do: put(bAt("h:1")), err: domain.ErrAddressInUse},
		"a node keeps its own address":                     {given: list(put(a)), do: put(heavyA), want: domain.Updated},
		"a node may spell its own address anew":            {given: list(put(a)), do: put(aAt("H:1")), want: domain.Updated},
		"a node can't move to an address in use":           {given: list(put(a), put(b)), do: put(aAt("h:2")), err: domain.ErrAddressInUse},
		"two nodes can't change places at once":            {given: list(put(a), put(b), put(aAt("h:3"))), do: put(bAt("h:3")), err: domain.ErrAddressInUse},
		"two nodes can change places by way of a third":    {given: list(put(a), put(b), put(aAt("h:3")), put(bAt("h:1"))), do: put(aAt("h:2")), want: domain.Updated},
		"the address of a removed node is free":            {given: list(put(a), remove("a")), do: put(bAt("h:1")), want: domain.Added},
		"the address that a node left is free":             {given: list(put(a), put(aAt("h:9"))), do: put(bAt("h:1")), want: domain.Added},
		"the address that a node moved to is taken":        {given: list(put(a), put(aAt("h:9"))), do: put(bAt("h:9")), err: domain.ErrAddressInUse},
		"an address has one owner over all pools":          {given: list(put(a)), do: put(node(t, "b", "h:1", inPool("p"))), err: domain.ErrAddressInUse},
		"an address is still taken after a refused move":   {given: list(put(a), put(b)), do: put(node(t, "c", "h:2")), err: domain.ErrAddressInUse},
		"an address spelt anew is still taken":             {given: list(put(a), put(aAt("H:1"))), do: put(bAt("h:1")), err: domain.ErrAddressInUse},
		"an address spelt anew is free after the removal":  {given: list(put(a), put(aAt("H:1")), remove("a")), do: put(bAt("h:1")), want: domain.Added},
		"a node at a free address beside others is added":  {given: list(put(a), put(b)), do: put(c), want: domain.Added},
		"a node that changes its pool keeps its address":   {given: list(put(a)), do: put(node(t, "a", "h:1", inPool("p"))), want: domain.Updated},
		"a node of the same address and pool is unchanged": {given: list(put(node(t, "a", "h:1", inPool("p")))), do: put(node(t, "a", "h:1", inPool("p"))), want: domain.Unchanged},

		"absent: a new node is added":                       {do: when(a, absent), want: domain.Added},
		"absent: a known node is not replaced":              {given: list(put(a)), do: when(heavyA, absent), err: domain.ErrConditionFailed},
		"absent: also the same node is refused":             {given: list(put(a)), do: when(a, absent), err: domain.ErrConditionFailed},
		"absent: a removed node is absent":                  {given: list(put(a), remove("a")), do: when(a, absent), want: domain.Added},
		"absent: other nodes don't count":                   {given: list(put(b)), do: when(a, absent), want: domain.Added},
		"absent: an address in use is refused all the same": {given: list(put(a)), do: when(bAt("h:1"), absent), err: domain.ErrAddressInUse},
		"present: a known node is replaced":                 {given: list(put(a)), do: when(heavyA, present), want: domain.Updated},
		"present: a new node is not added":                  {do: when(a, present), err: domain.ErrConditionFailed},
		"present: a removed node is not there":              {given: list(put(a), remove("a")), do: when(a, present), err: domain.ErrConditionFailed},
		"present: a node is removed":                        {given: list(put(a)), do: gone("a", present), want: domain.Removed},
		"present: a node that is not there is no such node": {do: gone("a", present), err: domain.ErrNoSuchNode},
		"at revision: the node is replaced":                 {given: list(put(a)), do: when(heavyA, at(1)), want: domain.Updated},
		"at revision: the same node is left alone":          {given: list(put(a)), do: when(a, at(1)), want: domain.Unchanged},
		"at revision: the node is removed":                  {given: list(put(a)), do: gone("a", at(1)), want: domain.Removed},
		"at revision: the node's own revision counts":       {given: list(put(a), put(b)), do: when(heavyA, at(1)), want: domain.Updated},
		"at revision: the registry's does not":              {given: list(put(a), put(b)), do: when(heavyA, at(2)), err: domain.ErrConditionFailed},
		"at revision: the revision of the creation is past": {given: list(put(a), put(heavyA)), do: when(a, at(1)), err: domain.ErrConditionFailed},
		"at revision: a later one is refused too":           {given: list(put(a)), do: when(heavyA, at(2)), err: domain.ErrConditionFailed},
		"at revision: 0 is no node's":                       {given: list(put(a)), do: when(heavyA, at(0)), err: domain.ErrConditionFailed},
		"at revision: also the same node must be at it":     {given: list(put(a)), do: when(a, at(9)), err: domain.ErrConditionFailed},
		"at revision: a new node has none":                  {do: when(a, at(0)), err: domain.ErrConditionFailed},
		"at revision: a node at another is not removed":     {given: list(put(a), put(heavyA)), do: gone("a", at(1)), err: domain.ErrConditionFailed},
		"at revision: what is not there is no such node":    {do: gone("a", at(1)), err: domain.ErrNoSuchNode},
		"at revision: a node added again has a new one":     {given: list(put(a), remove("a"), put(a)), do: when(heavyA, at(1)), err: domain.ErrConditionFailed},
		"a failed condition comes before a taken address":   {given: list(put(a), put(b)), do: when(aAt("h:2"), at(9)), err: domain.ErrConditionFailed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, test.given...)
			before := contentsOf(r.View())
			change, err := only(r.Apply(test.do))
			after := contentsOf(r.View())
			if test.err != nil {
				mustBeRefused(t, before, test.do, change, err, test.err)
				mustEqual(t, "the registry after a refusal", after, before)
				return
			}
			if err != nil || change.Effect != test.want {
				t.Fatalf("Apply = %s, %v, want %s", change.Effect, err, test.want)
			}
			mustTell(t, before, after, test.do, change)
		})
	}
}

// mustBeRefused checks a refusal against the contract of Refusal.
func mustBeRefused(t *testing.T, before contents, cmd domain.Command, change domain.Change, err, want error) {
	t.Helper()
	var refusal *domain.Refusal
	if !errors.Is(err, want) || !errors.As(err, &refusal) {
		t.Fatalf("Apply = %+v, %v, want the refusal %v", change, err, want)
	}
	mustEqual(t, "the change of a refused command", change, domain.Change{})
	if refusal.Revision != before.Revision {
		t.Errorf("revision of the refusal = %d, want %d", refusal.Revision, before.Revision)
	}
	known := before.find(idOf(cmd))
	switch {
	case known == nil && refusal.Current != nil:
		t.Errorf("the refusal has a current node that does not exist: %+v", *refusal.Current)
	case known != nil && refusal.Current == nil:
		t.Error("the refusal lacks the current node")
	case known != nil:
		mustEqual(t, "the node in the refusal", *refusal.Current, *known)
	}
}

// mustTell checks a change against the registry before and after it.
func mustTell(t *testing.T, before, after contents, cmd domain.Command, change domain.Change) {
	t.Helper()
	if change.Reason != domain.ByRequest {
		t.Errorf("reason = %q, want %q", change.Reason, domain.ByRequest)
	}
	if change.Revision != after.Revision {
		t.Errorf("revision of the change = %d, want %d", change.Revision, after.Revision)
	}
	id := idOf(cmd)
	was, is := before.find(id), after.find(id)
	if (change.Previous == nil) != (was == nil) {
		t.Fatalf("Previous = %v, want %v", change.Previous, was)
	}
	if was != nil {
		mustEqual(t, "the previous node", *change.Previous, *was)
	}
	if change.Effect == domain.Unchanged {
		mustEqual(t, "the registry after no change", after, before)
		mustEqual(t, "the unchanged node", *change.Node, *was)
		return
	}
	if after.Revision != before.Revision+1 {
		t.Errorf("revision = %d, want %d", after.Revision, before.Revision+1)
	}
	mustEqual(t, "the history", after.History, append(before.History, change))
	if change.Effect == domain.Removed {
		if is != nil {
			t.Error("the removed node is still in the registry")
		}
		mustEqual(t, "the removed node", *change.Node, *was)
		return
	}
	mustEqual(t, "the node of the change", *change.Node, *is)
	if is.Revision != after.Revision {
		t.Errorf("revision of the node = %d, want %d", is.Revision, after.Revision)
	}
	if created := is.CreatedRevision; was == nil && created != after.Revision || was != nil && created != was.CreatedRevision {
		t.Errorf("created revision of the node = %d, want it set by the addition only", created)
	}
}

func (c contents) find(id string) *domain.CacheNode {
	for i := range c.Nodes {
		if c.Nodes[i].ID == id {
			return &c.Nodes[i]
		}
	}
	return nil
}

// idOf returns the id of the node that a command names, or "" if a refusal shows no node
// for it.
func idOf(cmd domain.Command) string {
	switch cmd := cmd.(type) {
	case domain.Register:
		return cmd.Node.ID
	case domain.Deregister:
		return cmd.ID
	}
	return ""
}

func TestEveryAttributeCountsAsAChange(t *testing.T) {
	changes := map[string]func(*domain.NodeSpec){
		"another address": func(s *domain.NodeSpec) { s.Address = "h:9" },
		"another pool":    inPool("p"),
		"another weight":  weighing(1),
		"another zone":    func(s *domain.NodeSpec) { s.Zone = "y" },
		"another value":   func(s *domain.NodeSpec) { s.Labels = map[string]string{"k": "w"} },
		"another key":     func(s *domain.NodeSpec) { s.Labels = map[string]string{"l": "v"} },
		"one more label":  func(s *domain.NodeSpec) { s.Labels = map[string]string{"k": "v", "l": "v"} },
		"no labels":       func(s *domain.NodeSpec) { s.Labels = nil },
		"another state":   inState(domain.Draining),
		"another end":     leased(domain.DownOnExpiry),
		"a longer life":   func(s *domain.NodeSpec) { seconds := 31; s.TTLSeconds = &seconds },
		"an endless life": func(s *domain.NodeSpec) { s.TTLSeconds = nil },
	}
	base := func(s *domain.NodeSpec) {
		s.Zone, s.Labels = "z", map[string]string{"k": "v"}
		leased(domain.RemoveOnExpiry)(s)
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, put(node(t, "a", "h:1", base)))
			if got := apply(t, r, put(node(t, "a", "h:1", base, change))); got.Effect != domain.Updated || got.Revision != 2 {
				t.Errorf("put of a change = %s at %d, want an update at 2", got.Effect, got.Revision)
			}
			if got := apply(t, r, put(node(t, "a", "h:1", base, change))); got.Effect != domain.Unchanged || got.Revision != 2 {
				t.Errorf("the same put again = %s at %d, want no change at 2", got.Effect, got.Revision)
			}
		})
	}
}

func TestClientsCannotSetServerAssignedFields(t *testing.T) {
	n := node(t, "a", "h:1")
	n.Slot, n.CreatedRevision, n.Revision, n.ExpiredFrom = 17, 40, 41, domain.Draining
	r := domain.NewRegistry()
	added := apply(t, r, put(n))
	if got := added.Node; got.Slot != 0 || got.CreatedRevision != 1 || got.Revision != 1 || got.ExpiredFrom != "" {
		t.Errorf("added node = %+v, want slot 0 and revision 1", *got)
	}
	n.Slot, n.ExpiredFrom = 3, domain.Active
	if again := apply(t, r, put(n)); again.Effect != domain.Unchanged {
		t.Errorf("put with another slot = %s, want no change", again.Effect)
	}
}

func TestEmptyRegistry(t *testing.T) {
	for name, v := range map[string]domain.View{
		"the view of a new registry": domain.NewRegistry().View(),
		"the zero view":              {},
	} {
		t.Run(name, func(t *testing.T) {
			mustEqual(t, "contents", contentsOf(v), contents{})
			if _, found := v.Node("a"); found || v.Len() != 0 {
				t.Error("an empty registry holds nodes")
			}
			if changes, reaches := v.Since(0); !reaches || len(changes) != 0 {
				t.Errorf("Since(0) = %v, %v, want none", changes, reaches)
			}
			if _, reaches := v.Since(1); reaches {
				t.Error("Since(1) reaches a revision that does not exist yet")
			}
		})
	}
}

func TestNodesComeInOrderOfTheirIDs(t *testing.T) {
	r := registryOf(t, put(node(t, "b", "h:1")), put(node(t, "B", "h:2")), put(node(t, "a", "h:3")), put(node(t, "10", "h:4")), put(node(t, "9", "h:5")))
	var ids []string
	for n := range r.View().Nodes() {
		ids = append(ids, n.ID)
	}
	mustEqual(t, "ids", ids, []string{"10", "9", "B", "a", "b"})
	for n := range r.View().Nodes() {
		if n.ID == "9" {
			break // a reader may stop in the middle
		}
	}
}

func TestSlots(t *testing.T) {
	at := func(i int, id, pool string) domain.Register { return put(node(t, id, address(i), inPool(pool))) }
	tests := map[string]struct {
		do   []domain.Command
		want map[string]int
	}{
		"slots are given in the order of arrival": {
			do: []domain.Command{at(1, "z", "p"), at(2, "y", "p"), at(3, "x", "p")}, want: map[string]int{"z": 0, "y": 1, "x": 2}},
		"each pool counts for itself": {
			do: []domain.Command{at(1, "a", "q"), at(2, "b", "p"), at(3, "c", "q"), at(4, "d", "p")}, want: map[string]int{"b": 0, "d": 1}},
		"a removed node leaves a hole": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(3, "c", "p"), remove("b")}, want: map[string]int{"a": 0, "c": 2}},
		"the next new node fills the hole": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(3, "c", "p"), remove("b"), at(4, "d", "p")}, want: map[string]int{"a": 0, "d": 1, "c": 2}},
		"the lowest of several holes is filled first": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(3, "c", "p"), at(4, "d", "p"), remove("c"), remove("a"), remove("b"),
				at(5, "e", "p"), at(6, "f", "p"), at(7, "g", "p"), at(8, "h", "p")},
			want: map[string]int{"e": 0, "f": 1, "g": 2, "d": 3, "h": 4}},
		"the highest slot is given again": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), remove("b"), at(3, "c", "p")}, want: map[string]int{"a": 0, "c": 1}},
		"a new address moves nobody": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), remove("a"), at(9, "b", "p")}, want: map[string]int{"b": 1}},
		"a node that is put again as it is stays": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), remove("a"), at(2, "b", "p")}, want: map[string]int{"b": 1}},
		"a node that changes its pool takes the lowest there": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(3, "c", "q"), remove("a"), at(3, "c", "p")}, want: map[string]int{"c": 0, "b": 1}},
		"a node that changes its pool leaves a hole": {
			do: []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(1, "a", "q"), at(3, "c", "p")}, want: map[string]int{"c": 0, "b": 1}},
		"a node that comes back has lost its slot": {
			do:   []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(1, "a", "q"), at(3, "c", "p"), at(1, "a", "p")},
			want: map[string]int{"c": 0, "b": 1, "a": 2}},
		"a pool that was emptied begins anew": {
			do:   []domain.Command{at(1, "a", "p"), at(2, "b", "p"), at(3, "c", "p"), remove("a"), remove("c"), remove("b"), at(4, "d", "p")},
			want: map[string]int{"d": 0}},
		"a pool that was left by all begins anew": {
			do: []domain.Command{at(1, "a", "p"), at(1, "a", "q"), at(2, "b", "p")}, want: map[string]int{"b": 0}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			mustEqual(t, "slots", slotsOf(registryOf(t, test.do...).View(), "p"), test.want)
		})
	}
}

func TestARefusedNodeTakesNoSlot(t *testing.T) {
	r := registryOf(t, put(node(t, "a", "h:1")))
	if _, err := r.Apply(put(node(t, "b", "h:1"))); !errors.Is(err, domain.ErrAddressInUse) {
		t.Fatal(err)
	}
	if got := apply(t, r, put(node(t, "c", "h:3"))).Node.Slot; got != 1 {
		t.Errorf("slot of the next node = %d, want 1", got)
	}
}

// If a replica skipped a command, it would diverge from the others.
func TestAnUnknownCommandPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an unknown command did not panic")
		}
	}()
	_, _ = domain.NewRegistry().Apply(struct{ domain.Command }{})
}
