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

// program is built at most once.
type program struct {
	build func() (path string, err error)
}

// Program gives the path of the program, built with the given build tags and, if
// the tests are, with the race detector. It is built once for each set of tags.
func Program(t testing.TB, tags ...string) string {
	t.Helper()
	if shared.directory == "" {
		t.Fatal("harness: there is no TestMain that calls harness.Main")
	}
	path, err := programOf(strings.Join(tags, ",")).build()
	if err != nil {
		t.Fatalf("harness: %v", err)
	}
	return path
}

func programOf(tags string) *program {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if known := shared.programs[tags]; known != nil {
		return known
	}
	if shared.programs == nil {
		shared.programs = map[string]*program{}
	}
	path := filepath.Join(shared.directory, fmt.Sprintf("nodesmetadata-%d", len(shared.programs)))
	p := &program{sync.OnceValues(func() (string, error) { return path, build(path, tags) })}
	shared.programs[tags] = p
	return p
}

func build(path, tags string) error {
	// The state of the checkout is of no interest, and asking git for it fails
	// where somebody else owns it.
	args := []string{"build", "-buildvcs=false", "-tags=" + tags, "-o", path}
	if Race {
		args = append(args, "-race")
	}
	output, err := exec.Command("go", append(args, mainPackage)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, output)
	}
	return nil
}
