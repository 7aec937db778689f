package domain

// Member is an instance of the raft cluster, with what it reports about itself.
type Member struct {
	Instance
	Reachable bool
	// ApplicationAddress and Version are empty while the instance is unreachable.
	ApplicationAddress string
	Version            string
}

// Cluster is the raft cluster as its leader sees it.
type Cluster struct {
	ID       string
	LeaderID string
	Term     uint64
	Members  []Member // in ascending order of their ids
}

// ClusterEventType names what happened to the raft cluster.
type ClusterEventType string

// The types of events in a stream about the raft cluster.
const (
	LeaderChanged       ClusterEventType = "leader_changed"
	InstanceAdded       ClusterEventType = "instance_added"
	InstanceUpdated     ClusterEventType = "instance_updated"
	InstanceRemoved     ClusterEventType = "instance_removed"
	InstanceUnreachable ClusterEventType = "instance_unreachable"
	InstanceReachable   ClusterEventType = "instance_reachable"
)

// ClusterEvent is one difference between two states of the raft cluster.
type ClusterEvent struct {
	Type ClusterEventType
	// Member is the instance after the event; for InstanceRemoved, its last state.
	Member Member
	Term   uint64
}

// EventsSince returns the events that lead from earlier to c: a change of leader or
// term first, then the instances in ascending order of their ids.
func (c Cluster) EventsSince(earlier Cluster) []ClusterEvent {
	var events []ClusterEvent
	add := func(kind ClusterEventType, m Member) {
		events = append(events, ClusterEvent{Type: kind, Member: m, Term: c.Term})
	}
	if c.LeaderID != earlier.LeaderID || c.Term != earlier.Term {
		add(LeaderChanged, c.member(c.LeaderID))
	}
	// Both lists are in ascending order, so one pass merges them.
	before, after := earlier.Members, c.Members
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(before) == 0 || len(after) > 0 && after[0].ID < before[0].ID:
			add(InstanceAdded, after[0])
			after = after[1:]
		case len(after) == 0 || before[0].ID < after[0].ID:
			add(InstanceRemoved, before[0])
			before = before[1:]
		default:
			for _, kind := range eventsOf(before[0], after[0]) {
				add(kind, after[0])
			}
			before, after = before[1:], after[1:]
		}
	}
	return events
}

// WithRoster returns c with the members of roster. Members that stay keep what is known
// about them; nothing is known about new members.
func (c Cluster) WithRoster(roster Roster) Cluster {
	members := make([]Member, 0, len(c.Members))
	for _, instance := range roster.Instances() {
		m := c.member(instance.ID)
		m.Instance = instance
		members = append(members, m)
	}
	c.Members = members
	return c
}

func eventsOf(before, after Member) []ClusterEventType {
	var kinds []ClusterEventType
	switch {
	case before.Reachable && !after.Reachable:
		kinds = append(kinds, InstanceUnreachable)
	case !before.Reachable && after.Reachable:
		kinds = append(kinds, InstanceReachable)
	}
	// The address and the version of an instance become empty when it is unreachable.
	// InstanceUnreachable has told that already, so it is no update as well.
	reportsOther := before.Reachable && after.Reachable &&
		(before.ApplicationAddress != after.ApplicationAddress || before.Version != after.Version)
	if before.Instance != after.Instance || reportsOther {
		kinds = append(kinds, InstanceUpdated)
	}
	return kinds
}

func (c Cluster) member(id string) Member {
	for _, m := range c.Members {
		if m.ID == id {
			return m
		}
	}
	return Member{Instance: Instance{ID: id}}
}
