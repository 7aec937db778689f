package consensus

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// testingT is the part that *testing.T and *rapid.T have in common.
type testingT interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// acceptedNode returns the node that a client registers with spec.
func acceptedNode(t testingT, spec domain.NodeSpec) domain.CacheNode {
	t.Helper()
	n, err := domain.NewCacheNode(spec)
	if err != nil {
		t.Fatalf("a node that the test needs is refused: %v", err)
	}
	return n
}

// anyNode draws any node that the domain accepts, with the longest values of everything
// among them, and gives the fields that the server sets any possible value.
func anyNode() *rapid.Generator[domain.CacheNode] {
	ids := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._:-]{0,20}`).Filter(func(id string) bool {
		return domain.CheckNodeID(id) == nil
	})
	longest := rapid.Just(strings.Repeat("x", domain.MaxIDBytes))
	keys := rapid.OneOf(ids, longest)
	texts := rapid.StringN(0, 30, domain.MaxZoneBytes).Filter(func(text string) bool {
		_, err := domain.NewCacheNode(domain.NodeSpec{ID: "a", Address: "h:1", Zone: text})
		return err == nil
	})
	revisions := rapid.Map(rapid.Uint64(), func(r uint64) domain.Revision { return domain.Revision(r) })
	return rapid.Custom(func(t *rapid.T) domain.CacheNode {
		pool, weight := keys.Draw(t, "pool"), rapid.IntRange(0, domain.MaxWeight).Draw(t, "weight")
		state := rapid.SampledFrom([]domain.State{domain.Active, domain.Draining, domain.Down}).Draw(t, "state")
		n := acceptedNode(t, domain.NodeSpec{
			ID:      keys.Draw(t, "id"),
			Address: rapid.SampledFrom([]string{"h:1", "10.0.0.1:11211", "[::1]:65535", "Cache.Example:80"}).Draw(t, "address"),
			Pool:    &pool,
			Weight:  &weight,
			Zone:    texts.Draw(t, "zone"),
			Labels:  rapid.MapOfN(keys, texts, 0, domain.MaxLabels).Draw(t, "labels"),
			State:   &state,
		})
		if rapid.Bool().Draw(t, "leased") {
			n.TTLSeconds = rapid.IntRange(1, domain.MaxTTLSeconds).Draw(t, "time to live")
		}
		n.OnExpiry = rapid.SampledFrom([]domain.OnExpiry{domain.RemoveOnExpiry, domain.DownOnExpiry}).Draw(t, "on expiry")
		if n.State == domain.Down {
			n.ExpiredFrom = rapid.SampledFrom([]domain.State{"", domain.Active, domain.Draining}).Draw(t, "expired from")
		}
		n.Slot = rapid.IntRange(0, domain.MaxNodes).Draw(t, "slot")
		n.CreatedRevision, n.Revision = revisions.Draw(t, "created revision"), revisions.Draw(t, "revision")
		return n
	})
}

func anyCondition() *rapid.Generator[domain.Condition] {
	return rapid.Custom(func(t *rapid.T) domain.Condition {
		c := domain.Condition{
			Expect: rapid.SampledFrom([]domain.Expectation{
				domain.Anything, domain.Absent, domain.Present, domain.AtRevision,
			}).Draw(t, "expect"),
		}
		if c.Expect == domain.AtRevision {
			c.Revision = domain.Revision(rapid.Uint64().Draw(t, "at revision"))
		}
		return c
	})
}

// anyCommand draws commands that need not make sense together.
func anyCommand() *rapid.Generator[domain.Command] {
	one := rapid.Custom(func(t *rapid.T) domain.Command {
		condition := anyCondition().Draw(t, "condition")
		n := anyNode().Draw(t, "node")
		if rapid.Bool().Draw(t, "deregister") {
			return domain.Deregister{ID: n.ID, If: condition}
		}
		return domain.Register{Node: n, If: condition}
	})
	return rapid.Custom(func(t *rapid.T) domain.Command {
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return domain.Batch{Commands: rapid.SliceOfN(one, 1, 5).Draw(t, "batch")}
		case 1:
			return domain.Expire{Nodes: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) domain.NodeAt {
				return domain.NodeAt{ID: anyNode().Draw(t, "node").ID, Revision: domain.Revision(rapid.Uint64().Draw(t, "revision"))}
			}), 1, 5).Draw(t, "nodes")}
		case 2:
			return domain.Revive{ID: anyNode().Draw(t, "node").ID}
		}
		return one.Draw(t, "one")
	})
}

func anyPromotion() *rapid.Generator[promotion] {
	return rapid.Custom(func(t *rapid.T) promotion {
		return promotion{ID: rapid.StringN(1, 20, -1).Draw(t, "id"), Settled: rapid.Bool().Draw(t, "settled")}
	})
}

// crossingCommands draws commands about few nodes, addresses and pools, so that they
// conflict: most succeed, some are refused, some change nothing.
func crossingCommands() *rapid.Generator[[]domain.Command] {
	return rapid.Custom(func(t *rapid.T) []domain.Command {
		commands := make([]domain.Command, rapid.IntRange(0, 80).Draw(t, "commands"))
		registry := domain.NewRegistry()
		for i := range commands {
			commands[i] = crossingCommand(t, registry.View())
			_, _ = registry.Apply(commands[i])
		}
		return commands
	})
}

var crossingIDs = []string{"a", "b", "c", "d", "e", "f"}

// crossingCommand draws one such command for a registry with this view.
func crossingCommand(t *rapid.T, view domain.View) domain.Command {
	id := func() string { return rapid.SampledFrom(crossingIDs).Draw(t, "id") }
	one := func() domain.Command {
		id := id()
		condition := crossingCondition(t, view, id)
		if rapid.IntRange(0, 4).Draw(t, "kind") == 0 {
			return domain.Deregister{ID: id, If: condition}
		}
		return domain.Register{Node: crossingNode(t, id), If: condition}
	}
	switch rapid.IntRange(0, 9).Draw(t, "shape") {
	case 0, 1:
		batch := domain.Batch{}
		for range rapid.IntRange(1, 4).Draw(t, "batch") {
			batch.Commands = append(batch.Commands, one())
		}
		return batch
	case 2, 3:
		expire := domain.Expire{}
		for n := range view.Nodes() {
			// Now and then the command names a node that is no longer there.
			if which := rapid.IntRange(0, 5).Draw(t, "which"); which < 4 {
				expire.Nodes = append(expire.Nodes, domain.NodeAt{ID: n.ID, Revision: n.Revision - domain.Revision(which/3)})
			}
		}
		return expire
	case 4:
		return domain.Revive{ID: id()}
	}
	return one()
}

func crossingCondition(t *rapid.T, view domain.View, id string) domain.Condition {
	switch rapid.IntRange(0, 9).Draw(t, "condition") {
	case 0:
		return domain.Condition{Expect: domain.Absent}
	case 1:
		return domain.Condition{Expect: domain.Present}
	case 2:
		revision := domain.Revision(rapid.IntRange(0, 30).Draw(t, "at revision"))
		if n, known := view.Node(id); known && rapid.Bool().Draw(t, "the right one") {
			revision = n.Revision
		}
		return domain.Condition{Expect: domain.AtRevision, Revision: revision}
	}
	return domain.Condition{}
}

func crossingNode(t *rapid.T, id string) domain.CacheNode {
	if rapid.IntRange(0, 3).Draw(t, "usual") == 0 {
		// The same node again and again, so that some commands change nothing.
		return acceptedNode(t, domain.NodeSpec{ID: id, Address: id + ":1"})
	}
	pool := rapid.SampledFrom([]string{"p", "q"}).Draw(t, "pool")
	weight := rapid.IntRange(0, 2).Draw(t, "weight")
	state := rapid.SampledFrom([]domain.State{domain.Active, domain.Draining}).Draw(t, "state")
	spec := domain.NodeSpec{
		ID:      id,
		Address: rapid.SampledFrom([]string{"h:1", "H:1", "h:2", "h:3", "h:4", "h:5", "h:6", "h:7"}).Draw(t, "address"),
		Pool:    &pool,
		Weight:  &weight,
		State:   &state,
	}
	if rapid.Bool().Draw(t, "labelled") {
		spec.Labels = map[string]string{"rack": "r7", "row": ""}
	}
	if rapid.Bool().Draw(t, "leased") {
		spec.TTLSeconds = new(rapid.IntRange(1, 2).Draw(t, "time to live"))
		onExpiry := rapid.SampledFrom([]domain.OnExpiry{domain.RemoveOnExpiry, domain.DownOnExpiry}).Draw(t, "on expiry")
		spec.OnExpiry = &onExpiry
	}
	return acceptedNode(t, spec)
}

// contents is everything that a view shows, as values that can be compared.
type contents struct {
	Revision domain.Revision
	Nodes    []domain.CacheNode
	History  []domain.Change
}

func contentsOf(v domain.View) contents {
	c := contents{Revision: v.Revision(), History: append([]domain.Change{}, v.History()...)}
	for n := range v.Nodes() {
		c.Nodes = append(c.Nodes, *n)
	}
	return c
}

// answer is the result of Apply, as values that can be compared.
type answer struct {
	Changes []domain.Change
	Error   string
	Refused domain.Revision
	Current *domain.CacheNode
}

func answerOf(changes []domain.Change, err error) answer {
	a := answer{Changes: changes}
	if err != nil {
		a.Error = err.Error()
	}
	if refusal, ok := errors.AsType[*domain.Refusal](err); ok {
		a.Refused, a.Current = refusal.Revision, refusal.Current
	}
	return a
}

func mustEqual(t testingT, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

// registryAfter returns a registry that has applied these commands, some of which may be
// refused.
func registryAfter(commands ...domain.Command) *domain.Registry {
	r := domain.NewRegistry()
	for _, cmd := range commands {
		_, _ = r.Apply(cmd)
	}
	return r
}

// imageOf returns the image of a registry; the rest of it is fixed.
func imageOf(r *domain.Registry) fsmSnapshot {
	return fsmSnapshot{view: r.View(), clusterID: "cluster", applied: 77, openTerm: 5}
}

func snapshotOf(t testingT, im fsmSnapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeSnapshot(&b, im); err != nil {
		t.Fatalf("writeSnapshot = %v, want success", err)
	}
	return b.Bytes()
}

func restoredFrom(t testingT, snapshot []byte) decodedSnapshot {
	t.Helper()
	read, err := readSnapshot(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatalf("readSnapshot = %v, want success", err)
	}
	return read
}

// resealed returns data with a correct checksum at its end.
func resealed(data []byte) []byte {
	if len(data) < checksumSize {
		return data
	}
	return appendChecksum(bytes.Clone(data[:len(data)-checksumSize]))
}

// eachDamage calls check with every copy of data in which one byte is changed, in one bit or
// in all, and with every copy that ends early.
func eachDamage(t *testing.T, data []byte, check func(t *testing.T, damaged []byte)) {
	t.Helper()
	for at := range data {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			damaged := bytes.Clone(data)
			damaged[at] ^= flip
			check(t, damaged)
		}
		check(t, data[:at])
	}
}
