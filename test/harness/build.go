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
	// Plain is without the race detector, also where the tests have it: for what
	// is measured.
	Plain bool
}

// Program gives the path of the program, built with the race detector if the
// tests are, unless it is to be plain. It is built once for each kind of Build.
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

// built gives the path of a program of some kind, which build has made when it was asked for first.
func built(t testing.TB, kind string, build func(path string) error) (path string, err error) {
	t.Helper()
	if shared.directory == "" {
		t.Fatal("harness: there is no TestMain that calls harness.Main")
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
	// The state of the checkout is of no interest, and asking git for it fails
	// where somebody else owns it.
	args = append([]string{"build", "-buildvcs=false", "-o", path}, args...)
	output, err := exec.Command("go", append(args, mainPackage)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, output)
	}
	return nil
}
