package domain_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestTheNumberOfNodesIsLimited(t *testing.T) {
	r := domain.NewRegistry()
	template := node(t, "template", "template:1")
	for i := range domain.MaxNodes {
		template.ID, template.Address = fmt.Sprintf("n%d", i), address(i)
		apply(t, r, put(template))
	}
	one := node(t, "one-more", "one-more:1")
	before := r.View().Revision()
	_, err := r.Apply(put(one))
	var refusal *domain.Refusal
	if !errors.Is(err, domain.ErrRegistryFull) || !errors.As(err, &refusal) || refusal.Revision != before || refusal.Current != nil {
		t.Fatalf("put of one node too many = %v, want %v at revision %d", err, domain.ErrRegistryFull, before)
	}
	if v := r.View(); v.Len() != 250_000 || v.Revision() != before {
		t.Fatalf("registry = %d nodes at revision %d, want 250000 at %d", v.Len(), v.Revision(), before)
	}
	template.Weight = 1
	if change := apply(t, r, put(template)); change.Effect != domain.Updated {
		t.Errorf("change of a node in a full registry = %s, want an update", change.Effect)
	}
	if change := apply(t, r, put(template)); change.Effect != domain.Unchanged {
		t.Errorf("put of an unchanged node in a full registry = %s, want no change", change.Effect)
	}
	if change := apply(t, r, remove("n17"), put(one)); change.Effect != domain.Added || change.Node.Slot != 17 {
		t.Errorf("put after a removal = %s in slot %d, want an addition in slot 17", change.Effect, change.Node.Slot)
	}
	if _, err := r.Apply(put(node(t, "another", "another:1"))); !errors.Is(err, domain.ErrRegistryFull) {
		t.Errorf("put into the registry that is full again = %v, want %v", err, domain.ErrRegistryFull)
	}

	another, third := put(node(t, "another", "another:1")), put(node(t, "third", "third:1"))
	full := r.View()
	_, err = r.Apply(batch(remove("n18"), another, third))
	if !errors.Is(err, domain.ErrRegistryFull) || !strings.HasPrefix(err.Error(), "changes[2]: ") {
		t.Errorf("batch that adds one more than it removes = %v, want changes[2] refused as %v", err, domain.ErrRegistryFull)
	}
	if v := r.View(); v.Len() != full.Len() || v.Revision() != full.Revision() {
		t.Errorf("registry after a refused batch = %d nodes at revision %d, want %d at %d", v.Len(), v.Revision(), full.Len(), full.Revision())
	}
	changes, err := r.Apply(batch(remove("n18"), another))
	if err != nil || len(changes) != 2 || changes[1].Node.Slot != 18 {
		t.Errorf("batch that adds as many as it removes = %+v, %v, want 2 changes", changes, err)
	}
	mustBeSound(t, r)
}

func TestTheSizeOfARegistryIsLimited(t *testing.T) {
	r := domain.NewRegistry()
	big := greatest(t, "big", "big:1", "x")
	raw := rawBytes(&big)
	count := 0
	full := func() bool {
		big.ID, big.Address = fmt.Sprintf("big%d", count), address(count)
		_, err := r.Apply(put(big))
		if err != nil && !errors.Is(err, domain.ErrRegistryFull) {
			t.Fatal(err)
		}
		return err != nil
	}
	for !full() {
		count++
	}
	// The counted size is somewhat more than the text alone.
	if held := count * raw; held > 256<<20 || held < 224<<20 {
		t.Fatalf("bytes of text in a full registry of %d nodes = %d, want 224 to 256 MiB", count, held)
	}
	small := node(t, "small", "small:1")
	filled := 0
	for {
		small.ID, small.Address = fmt.Sprintf("small%d", filled), address(1<<20+filled)
		if _, err := r.Apply(put(small)); errors.Is(err, domain.ErrRegistryFull) {
			break
		}
		filled++
	}
	if filled == 0 || filled*rawBytes(&small) > raw {
		t.Fatalf("small nodes accepted after one of %d bytes was refused = %d", raw, filled)
	}

	first, found := r.View().Node("big0")
	if !found {
		t.Fatal("the first node is missing")
	}
	grown := *first
	grown.ID, grown.Address = "small0", address(1<<20)
	before := r.View().Revision()
	if _, err := r.Apply(put(grown)); !errors.Is(err, domain.ErrRegistryFull) {
		t.Errorf("growth of a node in a full registry = %v, want %v", err, domain.ErrRegistryFull)
	}
	if now := r.View().Revision(); now != before {
		t.Errorf("revision = %d, want %d", now, before)
	}
	shrunk := *first
	shrunk.Labels = nil
	if change := apply(t, r, put(shrunk)); change.Effect != domain.Updated {
		t.Errorf("put of a smaller node in a full registry = %s, want an update", change.Effect)
	}
	apply(t, r, remove("big1"))
	if full() {
		t.Error("the registry is still full after a node became smaller")
	}

	// The size that a refused batch added or freed must not count.
	one, other := big, big
	one.ID, one.Address, other.ID, other.Address = "one", "one:1", "other", "other:1"
	for range 3 {
		if _, err := r.Apply(batch(remove("big2"), put(one), put(other))); !errors.Is(err, domain.ErrRegistryFull) {
			t.Errorf("batch that adds more bytes than it removes = %v, want %v", err, domain.ErrRegistryFull)
		}
	}
	if changes, err := r.Apply(batch(remove("big2"), put(one))); err != nil || len(changes) != 2 {
		t.Errorf("batch that adds as many bytes as it removes = %+v, %v, want 2 changes", changes, err)
	}
	mustBeSound(t, r)
}

// The size of a node must be the same in every build: otherwise one instance would refuse a
// change that another one accepts.
func TestTheSizeThatANodeCountsFor(t *testing.T) {
	// weighs returns a node of this size: 128 bytes, 32 for each label, and its text. A
	// client can't register one with so much text.
	text := strings.Repeat("x", 2<<20)
	weighs := func(id string, bytes int) domain.CacheNode {
		n := node(t, id, "h:"+id)
		n.Labels = map[string]string{}
		left := bytes - 128 - rawBytes(&n) - len(n.State)
		for left > 1<<20 {
			key := fmt.Sprintf("%03d", len(n.Labels))
			n.Labels[key] = text[:1<<20-32-len(key)]
			left -= 1 << 20
		}
		n.Zone = text[:left]
		return n
	}
	grown := func(n domain.CacheNode) domain.CacheNode { n.Zone += "z"; return n }
	r := domain.NewRegistry()
	// mustFit does not print the node, which is too large to read.
	mustFit := func(n domain.CacheNode) {
		t.Helper()
		if _, err := r.Apply(put(n)); err != nil {
			t.Fatal(err)
		}
	}

	one, other := weighs("1", 200<<20), weighs("2", 56<<20)
	mustFit(one)
	if _, err := r.Apply(put(grown(other))); !errors.Is(err, domain.ErrRegistryFull) {
		t.Errorf("put beyond 256 MiB = %v, want %v", err, domain.ErrRegistryFull)
	}
	mustFit(other)
	if _, err := r.Apply(put(grown(other))); !errors.Is(err, domain.ErrRegistryFull) {
		t.Errorf("growth of a node beyond 256 MiB = %v, want %v", err, domain.ErrRegistryFull)
	}
	moved := other
	moved.Weight++
	mustFit(moved)

	// A registry of an earlier build may hold more than is accepted today.
	full := r.View()
	more := weighs("3", 1<<20)
	more.Slot, more.CreatedRevision, more.Revision = 2, 1, 1
	over, err := domain.RestoreRegistry(full.Revision(), append(slices.Collect(full.Nodes()), &more), nil)
	if err != nil {
		t.Fatal(err)
	}
	lighter := more
	lighter.Zone = lighter.Zone[1:]
	for what, n := range map[string]domain.CacheNode{"a byte less": lighter, "no more than before": moved} {
		n.Weight = 7
		if _, err := over.Apply(put(n)); err != nil {
			t.Errorf("%s for a node of an oversized registry = %v, want success", what, err)
		}
	}
	if _, err := over.Apply(put(grown(lighter))); !errors.Is(err, domain.ErrRegistryFull) {
		t.Errorf("growth of a node of an oversized registry = %v, want %v", err, domain.ErrRegistryFull)
	}

	for _, last := range []domain.CacheNode{other, grown(other)} {
		with := domain.NewReplacement()
		last.Slot = 1
		err := errors.Join(with.Add(&one), with.Add(&last))
		if fits := last.Zone == other.Zone; fits != (err == nil) || !fits && !errors.Is(err, domain.ErrRegistryFull) {
			t.Errorf("Add of both nodes = %v, want success: %v", err, fits)
		}
	}

	// A change counts for 64 bytes, its node, and the node before.
	for more, kept := range []int{3, 2} {
		small := weighs("3", 1<<20)
		first := weighs("4", 29<<20-3*64+more)
		r = domain.NewRegistry()
		mustFit(small)
		mustFit(first)
		small.Weight++
		mustFit(small)
		if changes := r.View().History(); len(changes) != kept {
			t.Errorf("changes kept of three that count for 32 MiB and %d bytes = %d, want %d", more, len(changes), kept)
		}
	}

	// A large change displaces as many changes as it needs, each counted with its own size.
	r = domain.NewRegistry()
	for _, n := range []domain.CacheNode{weighs("1", 1<<20), weighs("2", 2<<20), weighs("3", 3<<20), weighs("4", 28<<20)} {
		mustFit(n)
	}
	if changes := r.View().History(); len(changes) != 2 {
		t.Errorf("changes kept of four that count for 1, 2, 3 and 28 MiB = %d, want 2", len(changes))
	}
	mustBeSound(t, r)
}

// rawBytes returns the length of all text of a node.
func rawBytes(n *domain.CacheNode) int {
	size := len(n.ID) + len(n.Address) + len(n.Pool) + len(n.Zone)
	for key, value := range n.Labels {
		size += len(key) + len(value)
	}
	return size
}

func TestTheNumberOfChangesInHistoryIsLimited(t *testing.T) {
	r := domain.NewRegistry()
	light, heavy := node(t, "a", "h:1", weighing(0)), node(t, "a", "h:1", weighing(1))
	toRevision := func(last domain.Revision) {
		for r.View().Revision() < last {
			apply(t, r, put(heavy))
			light, heavy = heavy, light
		}
	}
	tests := []struct {
		name     string
		now      domain.Revision
		since    domain.Revision
		reaches  bool
		expected int
	}{
		{"the whole of a short history", 3, 0, true, 3},
		{"the last change", 3, 2, true, 1},
		{"no change after the current revision", 3, 3, true, 0},
		{"a future revision is not reached", 3, 4, false, 0},
		{"a history at the limit is complete", 10_000, 0, true, 10_000},
		{"a history over the limit loses its oldest change", 10_001, 0, false, 0},
		{"all changes after the oldest one are there", 10_001, 1, true, 10_000},
		{"a history that was trimmed often reaches back to the limit", 25_000, 15_000, true, 10_000},
		{"a history that was trimmed often reaches no further back", 25_000, 14_999, false, 0},
		{"a history that was trimmed often has the last change", 25_000, 24_999, true, 1},
		{"a history that was trimmed often has no change after the current revision", 25_000, 25_000, true, 0},
		{"a history that was trimmed often does not reach a future revision", 25_000, ^domain.Revision(0), false, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			toRevision(test.now)
			changes, reaches := r.View().Since(test.since)
			if reaches != test.reaches || len(changes) != test.expected {
				t.Fatalf("Since(%d) at %d = %d changes, %v, want %d, %v", test.since, test.now, len(changes), reaches, test.expected, test.reaches)
			}
			for i, change := range changes {
				if change.Revision != test.since+1+domain.Revision(i) {
					t.Fatalf("revision of change %d = %d, want %d", i, change.Revision, test.since+1+domain.Revision(i))
				}
			}
		})
	}
}

func TestTheSizeOfHistoryIsLimited(t *testing.T) {
	r := domain.NewRegistry()
	big := greatest(t, "big", "big:1", "x")
	perChange := 2 * rawBytes(&big)
	for range 5000 {
		big.Weight++
		big.Weight %= domain.MaxWeight
		apply(t, r, put(big))
	}
	kept := len(r.View().History())
	if bytes := kept * perChange; bytes > 32<<20 || bytes < 28<<20 {
		t.Fatalf("bytes of text in %d kept changes = %d, want 28 to 32 MiB", kept, bytes)
	}
	now := r.View().Revision()
	if _, reaches := r.View().Since(now - domain.Revision(kept)); !reaches {
		t.Error("the history does not reach back over all kept changes")
	}
	if _, reaches := r.View().Since(now - domain.Revision(kept) - 1); reaches {
		t.Error("the history reaches further back than the kept changes")
	}

	// Small changes displace the large ones, until the number of changes is the limit.
	small := node(t, "small", "small:1")
	for i := range 10_000 {
		small.Zone = strings.Repeat("z", i%2)
		apply(t, r, put(small))
	}
	if kept := len(r.View().History()); kept != 10_000 {
		t.Errorf("small changes kept = %d, want 10000", kept)
	}
}
