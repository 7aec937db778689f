package harness_test

import (
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
