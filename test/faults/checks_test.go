package faults

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

const (
	// recovery is how long after a fault the first write may take to succeed.
	recovery = 10 * time.Second
	// deadline is how long a request may take, and promptly how long a refusal may take.
	deadline = 10 * time.Second
	promptly = time.Second
	// The least that a round must have seen: idle clients prove nothing.
	fewestOperations, fewestWrites, fewestRenewals = 100, 50, 3
)

// check is a property that must hold.
type check struct {
	name  string
	check func(*evidence) error
}

// checks must hold after every round. TestEachCheckFindsWhatIsWrong shows that each
// of them can fail.
var checks = []check{
	{"there was load", wasLoaded},
	{"there was a fault", wasFaulty},
	{"the history of the clients is linearizable", isLinearizable},
	{"acknowledged writes are kept", keepsWrites},
	{"all instances are equal", areEqual},
	{"streams deliver the history", streamsAreWhole},
	{"a term has one leader", haveOneLeader},
	{"the cluster recovers", recovers},
	{"refusals are orderly", refusesOrderly},
	{"requests keep their deadline", keepsDeadline},
	{"renewed nodes do not expire", keepsLeases},
	{"clients of undisturbed instances notice nothing", harmsNoOthers},
}

func wasLoaded(e *evidence) error {
	if len(e.operations) < fewestOperations || len(e.writes) < fewestWrites || e.renewals < fewestRenewals {
		return fmt.Errorf("%d operations, %d acknowledged writes and %d renewals prove nothing",
			len(e.operations), len(e.writes), e.renewals)
	}
	return nil
}

// wasFaulty checks that a fault was injected, and that a new leader was elected if
// the fault requires one.
func wasFaulty(e *evidence) error {
	switch {
	case e.injected == 0:
		return errors.New("the nemesis injected no fault")
	case e.elects && e.termAfter <= e.termBefore:
		return fmt.Errorf("term = %d, want more than %d: no leader was elected", e.termAfter, e.termBefore)
	}
	return nil
}

func isLinearizable(e *evidence) error {
	if result := porcupine.CheckOperationsTimeout(history.Model, e.operations, time.Minute); result != porcupine.Ok {
		return fmt.Errorf("porcupine says %v", result)
	}
	return nil
}

func keepsWrites(e *evidence) error {
	made := map[uint64]harness.Change{}
	for _, change := range e.changes {
		made[change.Revision] = change
	}
	claimed := map[uint64]history.Write{}
	for _, write := range e.writes {
		change, there := made[write.Revision]
		removed := change.Type == "removed"
		if !there || change.Node.ID != write.Node || removed != (write.Value == 0) || !removed && *change.Node.Weight != write.Value {
			return fmt.Errorf("%+v was acknowledged, but the change at that revision is %+v", write, change)
		}
		if other, twice := claimed[write.Revision]; twice {
			return fmt.Errorf("%+v and %+v were acknowledged with the same revision", write, other)
		}
		claimed[write.Revision] = write
	}
	return nil
}

func areEqual(e *evidence) error {
	want := harness.Registry{Revision: e.before.Revision, Nodes: maps.Clone(e.before.Nodes)}
	for _, change := range e.changes {
		if change.Revision != want.Revision+1 {
			return fmt.Errorf("revision %d follows revision %d in the history", change.Revision, want.Revision)
		}
		want.Revision = change.Revision
		want.Nodes[change.Node.ID] = change.Node
		if change.Type == "removed" {
			delete(want.Nodes, change.Node.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(e.after)) {
		if got := e.after[id]; !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%s is at revision %d with %d nodes, want revision %d with %d nodes, as in the history",
				id, got.Revision, len(got.Nodes), want.Revision, len(want.Nodes))
		}
	}
	return nil
}

func streamsAreWhole(e *evidence) error {
	for _, name := range slices.Sorted(maps.Keys(e.streams)) {
		if err := e.faults[name]; err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		delivered := e.streams[name]
		if len(delivered) != len(e.changes) {
			return fmt.Errorf("%s delivered %d changes, want %d", name, len(delivered), len(e.changes))
		}
		for n, change := range delivered {
			change.At = e.changes[n].At // the time of arrival
			if !reflect.DeepEqual(change, e.changes[n]) {
				return fmt.Errorf("%s delivered %+v, want %+v", name, change, e.changes[n])
			}
		}
	}
	return nil
}

func haveOneLeader(e *evidence) error {
	for term, ids := range e.leads {
		if len(ids) > 1 {
			return fmt.Errorf("term %d has several leaders: %s", term, strings.Join(ids, " and "))
		}
	}
	return nil
}

func recovers(e *evidence) error {
	if e.recovered > recovery {
		return fmt.Errorf("the first write after the fault succeeded after %v, want at most %v", e.recovered, recovery)
	}
	return nil
}

// undisturbed returns the exchanges with instances that were not disturbed during the exchange.
func (e *evidence) undisturbed() []harness.Exchange {
	return slices.DeleteFunc(slices.Clone(e.exchanges), func(x harness.Exchange) bool {
		return slices.ContainsFunc(e.disturbed[x.To], during(x).overlaps)
	})
}

func refusesOrderly(e *evidence) error {
	for _, x := range e.exchanges {
		if x.Status < 500 {
			continue
		}
		if x.Status != 503 || x.Code == "" || x.Header.Get("Retry-After") == "" || !strings.HasPrefix(x.Header.Get("Content-Type"), "application/problem+json") {
			return fmt.Errorf("%s %s at %s: answer = %d %q with %v, want 503 as a problem document with Retry-After", x.Method, x.Path, x.To, x.Status, x.Code, x.Header)
		}
	}
	for _, x := range e.undisturbed() {
		if stall := e.stall(during(x)); x.Status == 503 && x.Took > promptly+stall {
			return fmt.Errorf("%s %s at %s: refused with %q after %v, want at most %v beside %v in which this machine stalled", x.Method, x.Path, x.To, x.Code, x.Took, promptly, stall)
		}
	}
	return nil
}

func keepsDeadline(e *evidence) error {
	for _, x := range e.undisturbed() {
		if stall := e.stall(during(x)); x.Took > deadline+stall {
			return fmt.Errorf("%s %s at %s took %v, want at most %v beside %v in which this machine stalled: %d %v", x.Method, x.Path, x.To, x.Took, deadline, stall, x.Status, x.Err)
		}
	}
	return nil
}

func keepsLeases(e *evidence) error {
	for _, change := range e.changes {
		if change.Reason == "expired" {
			return fmt.Errorf("%s was renewed all the time, but expired: %+v", change.Node.ID, change)
		}
	}
	return e.refused
}

// harmsNoOthers checks that a client that asks an undisturbed instance, and follows
// its redirects, sees no failed request. It checks nothing if the term changed: on a
// busy machine the leader's heartbeats may be late enough to cause an election.
func harmsNoOthers(e *evidence) error {
	if !e.aside || e.termAfter != e.termBefore {
		return nil
	}
	for _, x := range e.exchanges {
		// A disturbed instance also needs a moment afterwards.
		if len(e.disturbed[x.To]) == 0 && (x.Err != nil || x.Status >= 500) {
			return fmt.Errorf("%s %s at %s, which was not disturbed, failed: %d %q %v", x.Method, x.Path, x.To, x.Status, x.Code, x.Err)
		}
	}
	return nil
}
