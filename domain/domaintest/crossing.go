package domaintest

import (
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// CrossingCommands draws sequences of commands about few nodes, addresses and pools, so that
// they conflict: most succeed, some are refused, some change nothing.
func CrossingCommands() *rapid.Generator[[]domain.Command] {
	return rapid.Custom(func(t *rapid.T) []domain.Command {
		commands := make([]domain.Command, rapid.IntRange(0, 80).Draw(t, "commands"))
		registry := domain.NewRegistry()
		for i := range commands {
			commands[i] = CrossingCommand(t, registry.View())
			_, _ = registry.Apply(commands[i])
		}
		return commands
	})
}

var crossingIDs = []string{"a", "b", "c", "d", "e", "f"}

// CrossingCommand draws one command of such a sequence, for a registry with this view.
func CrossingCommand(t *rapid.T, view domain.View) domain.Command {
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
