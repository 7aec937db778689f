// Package e2e_test runs whole clusters of real processes and holds them to what
// their users were promised: nothing acknowledged is lost, nothing on a stream is
// missing, nothing that a client sends does harm. What goes on between instances
// that are cut off from each other, and whether histories are linearizable, is
// not tested here.
//
// With -soak=10 the tests in which clients do things at random, or batches, do ten
// times as much.
package e2e_test

import (
	"flag"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var soak = flag.Int("soak", 1, "how many times as much is done in tests that do things at random")

func TestMain(m *testing.M) { harness.Main(m) }
