package domain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func putting(spec domain.NodeSpec, expected ...domain.Revision) domain.Edit {
	return domain.Edit{Put: &spec, IfRevision: first(expected)}
}

func removing(id string, expected ...domain.Revision) domain.Edit {
	return domain.Edit{Remove: &id, IfRevision: first(expected)}
}

func first(revisions []domain.Revision) *domain.Revision {
	if len(revisions) == 0 {
		return nil
	}
	return &revisions[0]
}

func TestNewBatch(t *testing.T) {
	spec := domain.NodeSpec{ID: "a", Address: "h:1"}
	a := node(t, "a", "h:1")
	times := func(n int) []domain.Edit {
		edits := make([]domain.Edit, n)
		for i := range edits {
			edits[i] = removing("a")
		}
		return edits
	}
	edits := func(e ...domain.Edit) []domain.Edit { return e }

	tests := map[string]struct {
		edits []domain.Edit
		want  []domain.Command // nil: as many as there are edits
		fault string           // how the error begins; empty: the batch is accepted
		field string
	}{
		"a batch changes something":    {edits: nil, fault: "changes must be 1 to 1000, not 0", field: "changes"},
		"an empty list is no batch":    {edits: edits(), fault: "changes must be 1 to 1000, not 0", field: "changes"},
		"one change is the least":      {edits: times(1)},
		"1000 changes are the most":    {edits: times(1000)},
		"1001 changes are too many":    {edits: times(1001), fault: "changes must be 1 to 1000, not 1001", field: "changes"},
		"a put registers the node":     {edits: edits(putting(spec)), want: list(put(a))},
		"a remove takes the node away": {edits: edits(removing("a")), want: list(remove("a"))},
		"a put may expect a revision":  {edits: edits(putting(spec, 5)), want: list(when(a, at(5)))},
		"a put at revision 0 expects the node to be absent": {
			edits: edits(putting(spec, 0)), want: list(when(a, absent))},
		"a remove may expect a revision": {edits: edits(removing("a", 7)), want: list(gone("a", at(7)))},
		"the greatest revision can be expected": {
			edits: edits(removing("a", ^domain.Revision(0))), want: list(gone("a", at(^domain.Revision(0))))},
		"the order stays, and a node may be named more than once": {
			edits: edits(removing("a"), putting(spec), removing("a", 3), putting(spec, 0)),
			want:  list(remove("a"), put(a), gone("a", at(3)), when(a, absent))},
		"a node called expire can be removed": {edits: edits(removing("expire")), want: list(remove("expire"))},

		"a remove can't expect the node to be absent": {
			edits: edits(removing("a", 0)), fault: "changes[0]: ifRevision must be at least 1", field: "ifRevision"},
		"a change must do something": {
			edits: edits(domain.Edit{}), fault: "changes[0]: it must be either put or remove", field: "it"},
		"a condition alone is no change": {
			edits: edits(domain.Edit{IfRevision: first([]domain.Revision{0})}), fault: "changes[0]: it must be either", field: "it"},
		"a change can't do both": {
			edits: edits(domain.Edit{Put: &spec, Remove: &spec.ID}), fault: "changes[0]: it must be either put or remove", field: "it"},
		"a node that is put must be valid": {
			edits: edits(putting(domain.NodeSpec{ID: "a", Address: "nowhere"})), fault: "changes[0]: address ", field: "address"},
		"a node that is put must not be called batch": {
			edits: edits(putting(domain.NodeSpec{ID: "batch", Address: "h:1"})), fault: "changes[0]: id ", field: "id"},
		"the id to remove must not be empty":   {edits: edits(removing("")), fault: "changes[0]: id ", field: "id"},
		"the id to remove must be valid":       {edits: edits(removing("a/b")), fault: "changes[0]: id ", field: "id"},
		"the id to remove is no reserved word": {edits: edits(removing("sse")), fault: "changes[0]: id ", field: "id"},
		"a fault is reported with its change": {
			edits: edits(removing("a"), putting(spec), removing("")), fault: "changes[2]: id ", field: "id"},
		"a fault of the last change is reported with it": {
			edits: append(times(999), domain.Edit{}), fault: "changes[999]: it ", field: "it"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			made, err := domain.NewBatch(test.edits)
			if test.fault != "" {
				var invalid *domain.InvalidError
				if !errors.Is(err, domain.ErrInvalid) || !errors.As(err, &invalid) {
					t.Fatalf("NewBatch = %v, want an InvalidError", err)
				}
				if !strings.HasPrefix(err.Error(), test.fault) || invalid.Field != test.field {
					t.Errorf("error in %q = %v, want %q in %q", invalid.Field, err, test.fault, test.field)
				}
				mustEqual(t, "a refused batch", made, domain.Batch{})
				return
			}
			if err != nil {
				t.Fatalf("NewBatch = %v, want success", err)
			}
			if len(made.Commands) != len(test.edits) {
				t.Errorf("commands = %d, want %d", len(made.Commands), len(test.edits))
			}
			if test.want != nil {
				mustEqual(t, "the commands", made.Commands, test.want)
			}
		})
	}
}

func TestNewBatchReportsAllFaults(t *testing.T) {
	weight := -1
	_, err := domain.NewBatch([]domain.Edit{
		removing("-"),
		putting(domain.NodeSpec{ID: "fine", Address: "h:1"}),
		putting(domain.NodeSpec{ID: "/", Address: "h:1", Weight: &weight}),
		{},
		removing("fine"),
		removing("a", 0),
	})
	if err == nil {
		t.Fatal("NewBatch = nil, want an error")
	}
	rest := err.Error()
	for _, fault := range []string{"changes[0]: id ", "changes[2]: id ", "changes[2]: weight ", "changes[3]: it ", "changes[5]: ifRevision "} {
		_, after, found := strings.Cut(rest, fault)
		if !found {
			t.Fatalf("error does not name %q, or not in this order: %v", fault, err)
		}
		rest = after
	}
	for _, fine := range []string{"changes[1]", "changes[4]"} {
		if strings.Contains(err.Error(), fine) {
			t.Errorf("error names the correct %s: %v", fine, err)
		}
	}
}

func TestNewBatchSharesNothingWithItsEdits(t *testing.T) {
	spec := domain.NodeSpec{ID: "a", Address: "h:1", Labels: map[string]string{"rack": "r7"}}
	id, revision := "b", domain.Revision(7)
	made, err := domain.NewBatch([]domain.Edit{{Put: &spec}, {Remove: &id, IfRevision: &revision}})
	if err != nil {
		t.Fatal(err)
	}
	spec.ID, spec.Labels["rack"], id, revision = "x", "r8", "y", 9
	n := node(t, "a", "h:1", func(s *domain.NodeSpec) { s.Labels = map[string]string{"rack": "r7"} })
	mustEqual(t, "the commands", made.Commands, list(put(n), gone("b", at(7))))
}

func TestABatchIsAppliedInOrder(t *testing.T) {
	a, b, c := node(t, "a", "h:1"), node(t, "b", "h:2"), node(t, "c", "h:3")
	heavyA, movedA := node(t, "a", "h:1", weighing(7)), node(t, "a", "h:2")
	inQ := func(n domain.CacheNode) domain.CacheNode { n.Pool = "q"; return n }
	effects := func(e ...domain.Effect) []domain.Effect { return e }
	const added, updated, removed, unchanged = domain.Added, domain.Updated, domain.Removed, domain.Unchanged

	tests := map[string]struct {
		given []domain.Command
		do    []domain.Command
		want  []domain.Effect
	}{
		"an empty batch is accepted":                 {given: list(put(a)), do: nil, want: nil},
		"one node may be added":                      {do: list(put(a)), want: effects(added)},
		"each change has a revision":                 {do: list(put(a), put(b), put(c)), want: effects(added, added, added)},
		"an unchanged node has no revision":          {given: list(put(a)), do: list(put(a), put(b), put(a)), want: effects(unchanged, added, unchanged)},
		"a batch may change nothing":                 {given: list(put(a), put(b)), do: list(put(b), put(a)), want: effects(unchanged, unchanged)},
		"a batch may add, update, remove and repeat": {given: list(put(a), put(b)), do: list(put(c), put(heavyA), remove("b"), put(c)), want: effects(added, updated, removed, unchanged)},
		"a node may be added and removed":            {do: list(put(a), remove("a")), want: effects(added, removed)},
		"a node may be removed and added":            {given: list(put(a)), do: list(remove("a"), put(a)), want: effects(removed, added)},
		"a node may be changed and put back":         {given: list(put(a)), do: list(put(heavyA), put(a), put(a)), want: effects(updated, updated, unchanged)},
		"an address that a node leaves is free":      {given: list(put(a)), do: list(put(node(t, "a", "h:9")), put(node(t, "b", "h:1"))), want: effects(updated, added)},
		"two nodes may swap addresses by way of a removal": {
			given: list(put(a), put(b)), do: list(remove("b"), put(movedA), put(node(t, "b", "h:1"))), want: effects(removed, updated, added)},
		"two nodes may swap addresses by way of a third one": {
			given: list(put(a), put(b)), do: list(put(node(t, "a", "h:9")), put(node(t, "b", "h:1")), put(movedA)), want: effects(updated, updated, updated)},
		"a slot that a node leaves is free": {
			given: list(put(a), put(b)), do: list(put(inQ(a)), put(c), put(a)), want: effects(updated, added, updated)},
		"a pool may be emptied and filled again": {
			given: list(put(a), put(b)), do: list(remove("a"), put(inQ(b)), put(c)), want: effects(removed, updated, added)},

		"a condition may hold for what was there before": {given: list(put(a)), do: list(put(b), when(heavyA, at(1))), want: effects(added, updated)},
		"a condition sees a node that the batch added":   {do: list(put(a), when(heavyA, present)), want: effects(added, updated)},
		"a condition sees the revision that the batch gave": {
			given: list(put(a)), do: list(put(heavyA), when(a, at(2)), gone("a", at(3))), want: effects(updated, updated, removed)},
		"a condition sees that the batch removed a node":  {given: list(put(a)), do: list(remove("a"), when(a, absent)), want: effects(removed, added)},
		"a condition sees that the batch changed nothing": {given: list(put(a)), do: list(put(a), when(heavyA, at(1))), want: effects(unchanged, updated)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, oneByOne := registryOf(t, test.given...), registryOf(t, test.given...)
			before := contentsOf(r.View())
			changes, err := r.Apply(batch(test.do...))
			if err != nil {
				t.Fatalf("Apply = %v, want success", err)
			}
			var done []domain.Effect
			var expected, kept []domain.Change
			for i, change := range changes {
				done = append(done, change.Effect)
				expected = append(expected, apply(t, oneByOne, test.do[i]))
				if change.Effect != domain.Unchanged {
					kept = append(kept, change)
				}
			}
			mustEqual(t, "the effects", done, test.want)
			mustEqual(t, "the changes of the same commands one by one", append([]domain.Change(nil), changes...), expected)
			after := contentsOf(r.View())
			mustEqual(t, "the registry", after, contentsOf(oneByOne.View()))
			mustEqual(t, "the history", after.History, append(before.History, kept...))
			if want := before.Revision + domain.Revision(len(kept)); after.Revision != want {
				t.Errorf("revision after %d changes = %d, want %d", len(kept), after.Revision, want)
			}
			mustBeSound(t, r)
		})
	}
}

func TestARefusedBatchChangesNothing(t *testing.T) {
	a, b, c := node(t, "a", "h:1"), node(t, "b", "h:2", inPool("p")), node(t, "c", "h:3")
	heavyA := node(t, "a", "h:1", weighing(7))
	inQ := func(n domain.CacheNode) domain.CacheNode { n.Pool = "q"; return n }
	to := func(n domain.CacheNode, address string) domain.CacheNode { n.Address = address; return n }
	// Every case begins with a at revision 1, b at 2 and d at 4; slot 1 of the default pool
	// is free.
	d := node(t, "d", "h:4")
	given := list(put(a), put(b), put(c), put(d), remove("c"))

	tests := map[string]struct {
		do  []domain.Command
		at  int // the command that is refused
		err error
	}{
		"the first command is refused": {do: list(remove("x"), put(c)), at: 0, err: domain.ErrNoSuchNode},
		"the only command is refused":  {do: list(put(to(c, "h:1"))), at: 0, err: domain.ErrAddressInUse},
		"the last command is refused":  {do: list(put(c), put(heavyA), remove("b"), remove("x")), at: 3, err: domain.ErrNoSuchNode},
		"changes after a refusal are not examined": {
			do: list(put(c), remove("x"), remove("y"), put(to(d, "h:1"))), at: 1, err: domain.ErrNoSuchNode},

		"a node was added": {do: list(put(c), remove("x")), at: 1, err: domain.ErrNoSuchNode},
		"more nodes were added than a word has slots": {
			do: append(many(t, 150), remove("x")), at: 150, err: domain.ErrNoSuchNode},
		"a node was changed":                  {do: list(put(heavyA), remove("x")), at: 1, err: domain.ErrNoSuchNode},
		"a node was changed several times":    {do: list(put(heavyA), put(to(a, "h:8")), put(inQ(a)), remove("x")), at: 3, err: domain.ErrNoSuchNode},
		"a node was removed":                  {do: list(remove("a"), remove("x")), at: 1, err: domain.ErrNoSuchNode},
		"all nodes were removed":              {do: list(remove("a"), remove("b"), remove("d"), remove("a")), at: 3, err: domain.ErrNoSuchNode},
		"nothing was changed":                 {do: list(put(a), put(b), remove("x")), at: 2, err: domain.ErrNoSuchNode},
		"a node was removed and added":        {do: list(remove("a"), put(a), remove("x")), at: 2, err: domain.ErrNoSuchNode},
		"a node was added and removed":        {do: list(put(c), remove("c"), remove("c")), at: 2, err: domain.ErrNoSuchNode},
		"a node was removed, another in slot": {do: list(remove("d"), remove("a"), put(c), put(d), put(a), remove("x")), at: 5, err: domain.ErrNoSuchNode},
		"a node moved to a new pool":          {do: list(put(inQ(a)), remove("x")), at: 1, err: domain.ErrNoSuchNode},
		"a node left a pool empty":            {do: list(put(inQ(b)), remove("x")), at: 1, err: domain.ErrNoSuchNode},
		"a node left its slot to another":     {do: list(put(inQ(a)), put(c), put(a), remove("x")), at: 3, err: domain.ErrNoSuchNode},
		"nodes moved from pool to pool": {
			do: list(put(inQ(a)), put(inQ(b)), put(inQ(d)), put(d), put(a), put(b), put(inQ(d)), remove("x")), at: 7, err: domain.ErrNoSuchNode},
		"two nodes swapped addresses by way of a removal": {
			do: list(remove("b"), put(to(a, "h:2")), put(to(b, "h:1")), remove("x")), at: 3, err: domain.ErrNoSuchNode},
		"two nodes swapped addresses by way of a third one": {
			do: list(put(to(a, "h:9")), put(to(b, "h:1")), put(to(a, "h:2")), remove("x")), at: 3, err: domain.ErrNoSuchNode},
		"an address was spelled differently": {do: list(put(to(a, "H:1")), put(to(c, "h:1"))), at: 1, err: domain.ErrAddressInUse},

		"an address was taken earlier in the batch":  {do: list(put(to(a, "h:9")), put(to(c, "h:9"))), at: 1, err: domain.ErrAddressInUse},
		"an address is left only later in the batch": {do: list(put(to(c, "h:1")), put(to(a, "h:9"))), at: 0, err: domain.ErrAddressInUse},
		"a node was removed earlier in the batch":    {do: list(remove("a"), remove("a")), at: 1, err: domain.ErrNoSuchNode},
		"a node must be present, and the batch removed it": {
			do: list(remove("a"), when(a, present)), at: 1, err: domain.ErrConditionFailed},
		"a node must be absent, and the batch added it": {
			do: list(put(c), when(c, absent)), at: 1, err: domain.ErrConditionFailed},
		"a node must be absent, and existed before": {do: list(put(c), when(heavyA, absent)), at: 1, err: domain.ErrConditionFailed},
		"a node is no longer at the expected revision": {
			do: list(put(heavyA), when(a, at(1))), at: 1, err: domain.ErrConditionFailed},
		"a node that was removed and added is no longer at the expected revision": {
			do: list(remove("a"), put(a), gone("a", at(1))), at: 2, err: domain.ErrConditionFailed},
		"a node with an expected revision was removed by the batch": {
			do: list(remove("a"), gone("a", at(1))), at: 1, err: domain.ErrNoSuchNode},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tried, spared := registryOf(t, given...), registryOf(t, given...)
			before := contentsOf(tried.View())
			changes, err := tried.Apply(batch(test.do...))
			if changes != nil {
				t.Errorf("changes of a refused batch = %+v, want none", changes)
			}
			mustBeRefused(t, before, test.do[test.at], domain.Change{}, err, test.err)
			if prefix := fmt.Sprintf("changes[%d]: %v", test.at, test.err); !strings.HasPrefix(err.Error(), prefix) {
				t.Errorf("error = %v, want the prefix %q", err, prefix)
			}
			mustEqual(t, "the registry", contentsOf(tried.View()), before)
			mustBeSound(t, tried)

			// The addresses, the next slots and the next revision must be as if the batch
			// had not been tried.
			mustGoOnAlike(t, tried, spared, list(
				put(to(c, "h:1")), put(to(c, "h:2")), put(to(c, "h:3")), put(to(c, "h:9")),
				put(node(t, "e", "h:5")), put(node(t, "f", "h:6", inPool("p"))), put(node(t, "g", "h:8", inPool("q"))),
				remove("b"), put(node(t, "i", "h:2", inPool("p"))), when(heavyA, at(1)), remove("a"), remove("x"),
			))
		})
	}
}

// many returns commands that add this many nodes to the default pool.
func many(t fataler, n int) []domain.Command {
	t.Helper()
	commands := make([]domain.Command, n)
	for i := range commands {
		commands[i] = put(node(t, fmt.Sprintf("n%d", i), address(i)))
	}
	return commands
}
