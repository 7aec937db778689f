package harness

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const mainPackage = "github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata"

// Build says how the program is built.
type Build struct {
	Tags []string
	// Plain builds without the race detector even if the tests have it, for measurements.
	Plain bool
}

// Program returns the path of the program, which has the race detector if the tests
// have it and b is not Plain. It is built once for each kind of Build.
func Program(t testing.TB, b Build) string {
	t.Helper()
	args := []string{"-tags=" + strings.Join(b.Tags, ",")}
	if Race && !b.Plain {
		args = append(args, "-race")
	}
	path, err := built(t, strings.Join(args, " "), func(path string) error { return build(path, args) })
	if err != nil {
		t.Fatalf("harness: %v", err)
	}
	return path
}

// built returns the path of a program of the given kind. The first call for a kind
// has build make it.
func built(t testing.TB, kind string, build func(path string) error) (path string, err error) {
	t.Helper()
	if shared.directory == "" {
		t.Fatal("harness: the package has no TestMain that calls harness.Main")
	}
	shared.mu.Lock()
	program := shared.programs[kind]
	if program == nil {
		path := filepath.Join(shared.directory, fmt.Sprintf("nodesmetadata-%d", len(shared.programs)))
		program = sync.OnceValues(func() (string, error) { return path, build(path) })
		if shared.programs == nil {
			shared.programs = map[string]func() (string, error){}
		}
		shared.programs[kind] = program
	}
	shared.mu.Unlock()
	return program()
}

func build(path string, args []string) error {
	// The state of the checkout does not matter, and git refuses to tell it where
	// another user owns the checkout.
	args = append([]string{"build", "-buildvcs=false", "-o", path}, args...)
	output, err := exec.Command("go", append(args, mainPackage)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, output)
	}
	return nil
}
