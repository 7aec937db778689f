package logstore_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// claimEnv makes this test binary a second process that claims the directory it names.
const claimEnv = "LOGSTORE_TEST_CLAIM"

func TestMain(m *testing.M) {
	dir, child := os.LookupEnv(claimEnv)
	if !child {
		goleak.VerifyTestMain(m)
	}
	_, err := logstore.Claim(dir, owner)
	fmt.Println(err)
	if errors.Is(err, logstore.ErrDirectoryInUse) {
		os.Exit(3)
	}
	os.Exit(0)
}
