package domain_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// replacement returns the replacement that a backup with these nodes would give.
func replacement(t fataler, nodes ...*domain.CacheNode) *domain.Replacement {
	t.Helper()
	with := domain.NewReplacement()
	for _, n := range nodes {
		if err := domain.CheckStored(n); err != nil {
			t.Fatalf("CheckStored of %+v = %v, want success", *n, err)
		}
		if err := with.Add(n); err != nil {
			t.Fatalf("Add of %+v = %v, want success", *n, err)
		}
	}
	return with
}

func backupOf(t fataler, v domain.View) *domain.Replacement {
	t.Helper()
	return replacement(t, slices.Collect(v.Nodes())...)
}

func replace(t fataler, r *domain.Registry, with *domain.Replacement) domain.Replaced {
	t.Helper()
	replaced, err := r.Replace(with, nil)
	if err != nil {
		t.Fatalf("replace: %v", err)
	}
	return replaced
}

// withoutRevisions returns the nodes of a view without the fields that a backup does not
// carry over.
func withoutRevisions(v domain.View) []domain.CacheNode {
	nodes := contentsOf(v).Nodes
	for i := range nodes {
		nodes[i].CreatedRevision, nodes[i].Revision = 0, 0
	}
	return nodes
}

func TestAReplacedRegistryEqualsItsBackup(t *testing.T) {
	seen := map[domain.Effect]int{}
	rapid.Check(t, func(t *rapid.T) {
		all := commands().Draw(t, "commands")
		at := rapid.IntRange(0, len(all)).Draw(t, "backup after")
		other := commands().Draw(t, "commands of another registry")
		r, source := domain.NewRegistry(), domain.NewRegistry()
		for _, cmd := range all[:at] {
			_, _ = r.Apply(cmd) // refusals are part of what is examined
			_, _ = source.Apply(cmd)
		}
		for _, cmd := range all[at:] {
			_, _ = r.Apply(cmd)
		}
		if rapid.Bool().Draw(t, "of another registry") {
			for _, cmd := range other {
				_, _ = source.Apply(cmd)
			}
		}
		before, backup := r.View(), source.View()
		with := backupOf(t, backup)
		replaced := replace(t, r, with)
		mustBeSound(t, r)
		after := r.View()

		mustEqual(t, "the nodes", withoutRevisions(after), withoutRevisions(backup))
		changes, reaches := after.Since(before.Revision())
		if !reaches {
			t.Fatalf("the history does not reach back to %d", before.Revision())
		}
		mustEqual(t, "the nodes of a client that follows the changes", replayed(t, before, changes), contentsOf(after).Nodes)
		counted := domain.Replaced{Revision: after.Revision(), Unchanged: after.Len()}
		for i, change := range changes {
			if change.Reason != domain.ByRestore || change.Revision != before.Revision()+1+domain.Revision(i) {
				t.Fatalf("change %d = %+v, want revision %d by %v", i, change, before.Revision()+1+domain.Revision(i), domain.ByRestore)
			}
			seen[change.Effect]++
			switch change.Effect {
			case domain.Added:
				counted.Added++
				counted.Unchanged--
			case domain.Updated:
				counted.Updated++
				counted.Unchanged--
				mustEqual(t, "when an updated node was created", change.Node.CreatedRevision, change.Previous.CreatedRevision)
			case domain.Removed:
				counted.Removed++
			}
		}
		seen[domain.Unchanged] += counted.Unchanged
		mustEqual(t, "the result", replaced, counted)

		again := replace(t, r, with)
		mustEqual(t, "the result of the same replacement again", again, domain.Replaced{Revision: after.Revision(), Unchanged: after.Len()})
		mustEqual(t, "the registry after the same once more", contentsOf(r.View()), contentsOf(after))

		// The registry goes on like one that was read from a snapshot: every index was updated.
		mustGoOnAlike(t, r, restore(t, after), other)
		mustEqual(t, "a view from before", contentsOf(after).Nodes, replayed(t, before, changes))
	})
	for _, effect := range []domain.Effect{domain.Added, domain.Updated, domain.Removed, domain.Unchanged} {
		if seen[effect] == 0 {
			t.Errorf("no change had the effect %s", effect)
		}
	}
}

// Addresses and slots can be swapped between nodes, which no order of single changes could do.
func TestAReplacementSwapsAddressesAndSlots(t *testing.T) {
	r := registryOf(t, put(node(t, "a", "h:1")), put(node(t, "b", "h:2")))
	a, b := node(t, "a", "h:2"), node(t, "b", "h:1")
	a.Slot, b.Slot = 1, 0
	replaced := replace(t, r, replacement(t, &a, &b))
	mustEqual(t, "the result", replaced, domain.Replaced{Revision: 4, Updated: 2})
	mustEqual(t, "the slots", slotsOf(r.View(), domain.DefaultPool), map[string]int{"a": 1, "b": 0})
	mustBeSound(t, r)
	if _, err := r.Apply(put(node(t, "c", "h:1"))); !errors.Is(err, domain.ErrAddressInUse) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("put at the address of b = %v, want %v", err, domain.ErrAddressInUse)
	}
}

// Later changes of the registry must not modify the replacement, because another registry
// may get it too.
func TestAReplacementBelongsToNoRegistry(t *testing.T) {
	with := backupOf(t, registryOf(t, put(node(t, "a", "h:1")), put(node(t, "b", "h:2")), put(node(t, "c", "h:3", inPool("p")))).View())
	first, second := domain.NewRegistry(), domain.NewRegistry()
	replace(t, first, with)
	apply(t, first, remove("a"), remove("c"), put(node(t, "d", "h:4")), put(node(t, "e", "h:5")), put(node(t, "f", "h:1", inPool("p"))))
	replace(t, second, with)
	for _, r := range []*domain.Registry{first, second} {
		mustBeSound(t, r)
	}
	if change := apply(t, second, remove("b"), put(node(t, "g", "h:7"))); change.Node.Slot != 1 {
		t.Errorf("slot in the second registry = %d, want 1", change.Node.Slot)
	}
}

func TestAReplacementKeepsItsCondition(t *testing.T) {
	r := registryOf(t, put(node(t, "a", "h:1")))
	n := node(t, "b", "h:2")
	before := contentsOf(r.View())
	for _, expected := range []domain.Revision{0, 2} {
		_, err := r.Replace(replacement(t, &n), &expected)
		var refusal *domain.Refusal
		if !errors.Is(err, domain.ErrConditionFailed) || !errors.As(err, &refusal) || refusal.Revision != 1 {
			t.Errorf("Replace at revision 1 if at %d = %v, want %v", expected, err, domain.ErrConditionFailed)
		}
		mustEqual(t, "the registry", contentsOf(r.View()), before)
	}
	expected := domain.Revision(1)
	if replaced, err := r.Replace(replacement(t, &n), &expected); err != nil || replaced.Revision != 3 {
		t.Errorf("Replace = %+v, %v, want revision 3", replaced, err)
	}
}

func TestAReplacementRefusesImpossibleRegistries(t *testing.T) {
	tests := map[string]struct {
		second func(n *domain.CacheNode)
		err    error
		says   string
	}{
		"an id again":               {func(n *domain.CacheNode) { n.ID = "a" }, domain.ErrInvalid, "ascending"},
		"an id that comes too late": {func(n *domain.CacheNode) { n.ID = "A" }, domain.ErrInvalid, "ascending"},
		"an address again":          {func(n *domain.CacheNode) { n.Address = "H:1" }, domain.ErrAddressInUse, `"a"`},
		"a slot again":              {func(n *domain.CacheNode) { n.Slot = 0 }, domain.ErrInvalid, "another node's"},
		"a slot below the first":    {func(n *domain.CacheNode) { n.Slot = -1 }, domain.ErrInvalid, "slot"},
		"a slot beyond the last":    {func(n *domain.CacheNode) { n.Slot = domain.MaxNodes }, domain.ErrInvalid, "slot"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			first, second := node(t, "a", "h:1"), node(t, "b", "h:2")
			second.Slot = 1
			with := replacement(t, &first)
			test.second(&second)
			if err := with.Add(&second); !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("Add = %v, want %v with %q", err, test.err, test.says)
			}
			r := registryOf(t)
			mustEqual(t, "the result without the refused node", replace(t, r, with), domain.Replaced{Revision: 1, Added: 1})
			mustBeSound(t, r)
		})
	}
}

func TestAReplacementHasTheLimitsOfARegistry(t *testing.T) {
	with, small := domain.NewReplacement(), node(t, "small", "small:1")
	for i := range domain.MaxNodes {
		n := small
		n.ID, n.Address, n.Slot = fmt.Sprintf("n%06d", i), address(i), i
		if err := with.Add(&n); err != nil {
			t.Fatal(err)
		}
	}
	more := node(t, "x", "h:1", inPool("other"))
	if err := with.Add(&more); !errors.Is(err, domain.ErrRegistryFull) {
		t.Errorf("Add of one node too many = %v, want %v", err, domain.ErrRegistryFull)
	}

	with, large := domain.NewReplacement(), greatest(t, "large", "large:1", "x")
	var err error
	for i := 0; i < domain.MaxNodes && err == nil; i++ {
		n := large
		n.ID, n.Address, n.Slot = fmt.Sprintf("n%06d", i), address(i), i
		err = with.Add(&n)
	}
	if !errors.Is(err, domain.ErrRegistryFull) || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("Add of large nodes = %v, want %v because of their bytes", err, domain.ErrRegistryFull)
	}
}

// If a replacement makes more changes than the history keeps, the latest are kept.
func TestALargeReplacementTrimsHistory(t *testing.T) {
	const size = domain.HistoryLength + 1000
	r := registryOf(t, put(node(t, "a", "h:1")))
	var nodes []*domain.CacheNode
	for i := range size {
		n := node(t, fmt.Sprintf("n%06d", i), address(i))
		n.Slot = i
		nodes = append(nodes, &n)
	}
	mustEqual(t, "the result", replace(t, r, replacement(t, nodes...)), domain.Replaced{Revision: size + 2, Added: size, Removed: 1})
	mustBeSound(t, r)
	if _, reaches := r.View().Since(1); reaches {
		t.Error("the history reaches back over the whole replacement")
	}
	if changes, reaches := r.View().Since(size + 2 - domain.HistoryLength); !reaches || len(changes) != domain.HistoryLength {
		t.Errorf("changes kept = %d, want %d", len(changes), domain.HistoryLength)
	}
}

func TestOnlyWhatARegistryHoldsIsStored(t *testing.T) {
	expired := node(t, "a", "h:1", leased(domain.DownOnExpiry), inState(domain.Down))
	expired.ExpiredFrom = domain.Draining
	for _, seconds := range []int{1, 86_400} {
		expired.TTLSeconds = seconds
		if err := domain.CheckStored(&expired); err != nil {
			t.Fatalf("CheckStored of a node that expiry made down after %d s = %v, want success", seconds, err)
		}
	}
	tests := map[string]struct {
		change func(n *domain.CacheNode)
		says   string
	}{
		"a reserved id":                     {func(n *domain.CacheNode) { n.ID = "batch" }, "id"},
		"an address without a port":         {func(n *domain.CacheNode) { n.Address = "h" }, "address"},
		"no pool":                           {func(n *domain.CacheNode) { n.Pool = "" }, "pool"},
		"no state":                          {func(n *domain.CacheNode) { n.State = "" }, "state"},
		"no end of its lease":               {func(n *domain.CacheNode) { n.OnExpiry = "" }, "onExpiry"},
		"a time to live that is too long":   {func(n *domain.CacheNode) { n.TTLSeconds = domain.MaxTTLSeconds + 1 }, "ttlSeconds"},
		"a time to live below zero":         {func(n *domain.CacheNode) { n.TTLSeconds = -1 }, "ttlSeconds"},
		"down before expiry made it down":   {func(n *domain.CacheNode) { n.ExpiredFrom = domain.Down }, "expiredFrom must be"},
		"expired, and active":               {func(n *domain.CacheNode) { n.State = domain.Active }, "expiredFrom is only"},
		"expired, without a time to live":   {func(n *domain.CacheNode) { n.TTLSeconds = 0 }, "expiredFrom is only"},
		"expired, and not removed for that": {func(n *domain.CacheNode) { n.OnExpiry = domain.RemoveOnExpiry }, "expiredFrom is only"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := expired
			test.change(&n)
			if err := domain.CheckStored(&n); !errors.Is(err, domain.ErrInvalid) || !strings.HasPrefix(err.Error(), test.says) {
				t.Errorf("CheckStored = %v, want the prefix %q", err, test.says)
			}
		})
	}
}
