package domain_test

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestEventsSince(t *testing.T) {
	answers := func(i domain.Instance) domain.Member {
		return domain.Member{Instance: i, Reachable: true, ApplicationAddress: i.ID + ":80", Version: "v1"}
	}
	silent := func(i domain.Instance) domain.Member { return domain.Member{Instance: i} }
	at := func(term uint64, leader string, members ...domain.Member) domain.Cluster {
		return domain.Cluster{ID: "c", LeaderID: leader, Term: term, Members: members}
	}
	event := func(kind domain.ClusterEventType, m domain.Member, term uint64) domain.ClusterEvent {
		return domain.ClusterEvent{Type: kind, Member: m, Term: term}
	}
	events := func(e ...domain.ClusterEvent) []domain.ClusterEvent { return e }
	a, b, c := voter("a", "h:1"), voter("b", "h:2"), voter("c", "h:3")
	moved, demoted := voter("b", "h:9"), nonvoter("b", "h:2")
	elsewhere, newer := answers(b), answers(b)
	elsewhere.ApplicationAddress, newer.Version = "b:81", "v2"

	tests := map[string]struct {
		before, after domain.Cluster
		want          []domain.ClusterEvent
	}{
		"no change": {
			at(1, "a", answers(a), silent(b)), at(1, "a", answers(a), silent(b)), nil},
		"another instance leads": {
			at(1, "a", answers(a), answers(b)), at(2, "b", answers(a), answers(b)),
			events(event(domain.LeaderChanged, answers(b), 2))},
		"the same instance leads in another term": {
			at(1, "a", answers(a)), at(3, "a", answers(a)),
			events(event(domain.LeaderChanged, answers(a), 3))},
		"no leader": {
			at(1, "a", answers(a)), at(1, "", answers(a)),
			events(event(domain.LeaderChanged, domain.Member{}, 1))},
		"an instance leads that is no member any more": {
			at(1, "a", answers(a)), at(2, "x", answers(a)),
			events(event(domain.LeaderChanged, domain.Member{Instance: domain.Instance{ID: "x"}}, 2))},
		"an instance is added at the end": {
			at(1, "a", answers(a)), at(1, "a", answers(a), silent(b)),
			events(event(domain.InstanceAdded, silent(b), 1))},
		"an instance is added at the beginning": {
			at(1, "b", answers(b)), at(1, "b", answers(a), answers(b)),
			events(event(domain.InstanceAdded, answers(a), 1))},
		"an instance is added in the middle": {
			at(1, "a", answers(a), answers(c)), at(1, "a", answers(a), answers(b), answers(c)),
			events(event(domain.InstanceAdded, answers(b), 1))},
		"an instance is removed at the end": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a)),
			events(event(domain.InstanceRemoved, answers(b), 1))},
		"an instance is removed at the beginning": {
			at(1, "b", answers(a), answers(b)), at(1, "b", answers(b)),
			events(event(domain.InstanceRemoved, answers(a), 1))},
		"all instances are replaced": {
			at(1, "a", answers(a), answers(c)), at(1, "a", answers(b)),
			events(event(domain.InstanceRemoved, answers(a), 1), event(domain.InstanceAdded, answers(b), 1), event(domain.InstanceRemoved, answers(c), 1))},
		"the first instances come": {
			domain.Cluster{}, at(1, "a", answers(a), answers(b)),
			events(event(domain.LeaderChanged, answers(a), 1), event(domain.InstanceAdded, answers(a), 1), event(domain.InstanceAdded, answers(b), 1))},
		"an instance becomes unreachable, and the loss of its address is no event": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a), silent(b)),
			events(event(domain.InstanceUnreachable, silent(b), 1))},
		"an instance answers again, as before": {
			at(1, "a", answers(a), silent(b)), at(1, "a", answers(a), answers(b)),
			events(event(domain.InstanceReachable, answers(b), 1))},
		"an instance moves": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a), answers(moved)),
			events(event(domain.InstanceUpdated, answers(moved), 1))},
		"a silent instance moves": {
			at(1, "a", answers(a), silent(b)), at(1, "a", answers(a), silent(moved)),
			events(event(domain.InstanceUpdated, silent(moved), 1))},
		"an instance is demoted": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a), answers(demoted)),
			events(event(domain.InstanceUpdated, answers(demoted), 1))},
		"an instance moves and falls silent": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a), silent(moved)),
			events(event(domain.InstanceUnreachable, silent(moved), 1), event(domain.InstanceUpdated, silent(moved), 1))},
		"an instance gives another application address": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a), elsewhere),
			events(event(domain.InstanceUpdated, elsewhere, 1))},
		"an instance was upgraded": {
			at(1, "a", answers(a), answers(b)), at(1, "a", answers(a), newer),
			events(event(domain.InstanceUpdated, newer, 1))},
		"the leader goes first, then the instances in their order": {
			at(1, "a", answers(a), answers(b)), at(2, "b", silent(a), answers(b), answers(c)),
			events(event(domain.LeaderChanged, answers(b), 2), event(domain.InstanceUnreachable, silent(a), 2), event(domain.InstanceAdded, answers(c), 2))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			mustEqual(t, "events", test.after.EventsSince(test.before), test.want)
		})
	}
}
