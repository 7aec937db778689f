package domaintest

import (
	"strings"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// AnyNode draws nodes that the domain accepts, some of them with values of the greatest length.
// The fields that the server sets have any possible value.
func AnyNode() *rapid.Generator[domain.CacheNode] {
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

// AnyCommand draws any single command. Several of them need not make sense together.
func AnyCommand() *rapid.Generator[domain.Command] {
	one := rapid.Custom(func(t *rapid.T) domain.Command {
		condition := anyCondition().Draw(t, "condition")
		n := AnyNode().Draw(t, "node")
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
				return domain.NodeAt{ID: AnyNode().Draw(t, "node").ID, Revision: domain.Revision(rapid.Uint64().Draw(t, "revision"))}
			}), 1, 5).Draw(t, "nodes")}
		case 2:
			return domain.Revive{ID: AnyNode().Draw(t, "node").ID}
		}
		return one.Draw(t, "one")
	})
}
