// Package e2e_test runs whole clusters of real processes and holds them to what
// their users were promised: nothing acknowledged is lost, nothing on a stream is
// missing, nothing that a client sends does harm. What goes on between instances
// that are cut off from each other, and whether histories are linearizable, is
// not tested here.
package e2e_test

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
