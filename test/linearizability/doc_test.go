// Package linearizability lets clients write and read through all instances of a
// real cluster while its leaders are killed and paused, and has porcupine search
// for an order of what they saw that a single registry could have produced. Half
// of the reads are answered by followers.
//
// Builds that read without the proof of leadership, and so are broken on purpose,
// and reads that are local on purpose, show that the search finds what it should.
package linearizability

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
