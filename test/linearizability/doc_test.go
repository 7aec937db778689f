// Package linearizability has clients write and read through all instances of a
// real cluster while its leaders are killed and paused, and has porcupine search
// for an order of the operations that a single registry could have produced.
// Followers answer half of the reads.
//
// Builds that are broken on purpose, by skipping the proof of leadership for reads,
// and reads that are local on purpose show that the search finds violations.
package linearizability

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
