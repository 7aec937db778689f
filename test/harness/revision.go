package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Previous returns the commit before the last one that changed the program. If the
// program has uncommitted changes, it returns HEAD. It skips the test where there is
// no history.
func Previous(t testing.TB) string {
	t.Helper()
	sources := []string{"--", ":(top)*.go", ":(top)go.mod", ":(top,exclude)*_test.go", ":(top,exclude)test/*"}
	if git(t, append([]string{"status", "--porcelain"}, sources...)...) != "" {
		return git(t, "rev-parse", "HEAD")
	}
	changed := git(t, append([]string{"log", "-1", "--first-parent", "--format=%H"}, sources...)...)
	return git(t, "rev-parse", "--verify", changed+"^")
}

// ProgramAt returns the path of the program built at a commit, without the race
// detector. It is built once. The test is skipped where the commit, or a module
// that it needs, is not on this machine.
func ProgramAt(t testing.TB, commit string) string {
	t.Helper()
	commit = git(t, "rev-parse", "--verify", commit+"^{commit}")
	path, err := built(t, commit, func(path string) error { return buildAt(path, commit) })
	if err != nil {
		t.Skipf("the program of commit %s can't be built here: %v", commit, err)
	}
	return path
}

func buildAt(path, commit string) error {
	source := path + ".src"
	if err := os.Mkdir(source, 0o700); err != nil {
		return err
	}
	archive := path + ".tar"
	top, err := gitCommand("rev-parse", "--show-toplevel").Output()
	if err != nil {
		return err
	}
	packing := gitCommand("archive", "--output="+archive, commit)
	packing.Dir = strings.TrimSpace(string(top)) // otherwise git packs only this directory
	building := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", path, mainPackage)
	building.Dir = source
	building.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly", "GOWORK=off")
	for _, command := range []*exec.Cmd{packing, exec.Command("tar", "-x", "-f", archive, "-C", source), building} {
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", command.Args, err, output)
		}
	}
	return nil
}

// git returns the output of a git command. It skips the test if the command fails.
func git(t testing.TB, args ...string) string {
	t.Helper()
	output, err := gitCommand(args...).Output()
	if err != nil {
		t.Skipf("there is no history to upgrade from: git %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(output))
}

func gitCommand(args ...string) *exec.Cmd {
	// Another user may own the checkout.
	return exec.Command("git", append([]string{"-c", "safe.directory=*"}, args...)...)
}
