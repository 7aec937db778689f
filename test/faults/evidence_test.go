package faults

import (
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/history"
)

// evidence is everything known about a round after its end.
type evidence struct {
	nemesis string
	// elects says that the cluster can't survive the fault without an election.
	elects bool
	// aside says that clients of undisturbed instances should notice nothing.
	aside                 bool
	termBefore, termAfter uint64

	operations []porcupine.Operation // of the clients that write and read at random
	writes     []history.Write       // all acknowledged writes, also those of other clients
	exchanges  []harness.Exchange
	injected   int // number of faults
	// disturbed are the times in which instances were disturbed, by address.
	disturbed map[string][]span

	before  harness.Registry            // at the beginning of the round
	changes []harness.Change            // since before, as the leader tells them at the end
	streams map[string][]harness.Change // as followers received them during the round
	faults  map[string]error            // violations by streams
	after   map[string]harness.Registry // of each instance, at the end

	// leads are all instances that were seen leading, by term.
	leads map[uint64][]string

	// recovered is how long after the end of the fault the first write was
	// acknowledged that began after it, and gap is the longest time without an
	// acknowledged write.
	recovered time.Duration
	gap       span

	// stalls are the times in which the test itself woke up late or waited for the
	// disk. The machine, not the cluster, is to blame for such delays.
	stalls []span

	renewals int   // number of acknowledged renewals
	refused  error // the renewals that were refused
}

// span is a period of time. It has not ended if to is zero.
type span struct{ from, to time.Time }

func (s span) overlaps(other span) bool {
	return (other.to.IsZero() || !s.from.After(other.to)) && (s.to.IsZero() || !other.from.After(s.to))
}

func (s span) length() time.Duration { return s.to.Sub(s.from) }

func during(e harness.Exchange) span { return span{e.Began, e.Began.Add(e.Took)} }
