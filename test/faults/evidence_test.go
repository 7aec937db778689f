package faults

import (
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// evidence is all that is known of a round when it is over.
type evidence struct {
	nemesis string
	// elects: the fault can't be survived without an election.
	elects bool
	// aside: clients of instances to which nothing was done should notice nothing.
	aside                 bool
	termBefore, termAfter uint64

	operations []porcupine.Operation // of clients that write and read at random
	writes     []history.Write       // all that were acknowledged, also of other clients
	exchanges  []harness.Exchange
	injected   int // how many faults
	// disturbed is when instances could not do what they should, by address.
	disturbed map[string][]span

	before  harness.Registry            // what the round began with
	changes []harness.Change            // since then, as the leader tells them in the end
	streams map[string][]harness.Change // as followers were told them on the way
	faults  map[string]error            // what streams did that they may not do
	after   map[string]harness.Registry // of each instance, in the end

	// leads are all that were seen to lead, by term.
	leads map[uint64][]string

	// recovered is how long after the end of the fault a write succeeded that began
	// after it, and gap the longest time without an acknowledged write.
	recovered time.Duration
	gap       span

	// stalls are when the test itself woke up later than it should, or waited for the
	// disk: what takes longer by that is the machine's fault.
	stalls []span

	renewals int   // that were acknowledged
	refused  error // renewals that were
}

// span is a time. One without an end goes on.
type span struct{ from, to time.Time }

func (s span) overlaps(other span) bool {
	return (other.to.IsZero() || !s.from.After(other.to)) && (s.to.IsZero() || !other.from.After(s.to))
}

func (s span) length() time.Duration { return s.to.Sub(s.from) }

func during(e harness.Exchange) span { return span{e.Began, e.Began.Add(e.Took)} }
