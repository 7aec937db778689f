package demux_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(fewFilesEnv) != "" { // this process is the one that a test started
		serveWithFewFiles()
		return
	}
	goleak.VerifyTestMain(m)
}
