// Package e2e_test runs whole clusters of real processes and checks what users were
// promised: no acknowledged write is lost, no change is missing on a stream, and no
// request does harm. Network partitions and the linearizability of histories are
// tested elsewhere.
//
// With -soak=10 the tests with random or batching clients do ten times as much.
package e2e_test

import (
	"flag"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

var soak = flag.Int("soak", 1, "factor by which tests with random or batching clients do more")

func TestMain(m *testing.M) { harness.Main(m) }
