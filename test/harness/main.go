package harness

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package and sets up what they share. Call it from
// TestMain. It fails if a test leaks goroutines, and it does not return.
func Main(m *testing.M) { goleak.VerifyTestMain(withShared{m}) }

type withShared struct{ tests *testing.M }

// Run implements goleak.TestingM.
func (w withShared) Run() int {
	directory, err := os.MkdirTemp("", "nodesmetadata-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	shared.directory = directory
	shared.children = newSpawner()
	defer func() {
		shared.children.close()
		shared.ports.close()
		if err := os.RemoveAll(directory); err != nil {
			fmt.Fprintln(os.Stderr, "harness:", err)
		}
	}()
	return w.tests.Run()
}

// shared is the state that all tests of a process share.
var shared struct {
	directory string // holds the built programs; empty outside of Main
	children  *spawner
	ports     ports

	mu       sync.Mutex // guards programs
	programs map[string]func() (path string, err error)
}
