package tour_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/test/tour"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const sample = "# Sample\n" +
	"```console\n$ make not-part-of-it\n```\n" +
	"<!-- tour: rules -->\n" +
	"Text, and `$ no command`.\n" +
	"```go\n$ neither\n```\n" +
	"```console\n$ first\nits output\n\nmore\n$ second \\\n    goes on\n```\n" +
	"```console\n$ third &\n```\n" +
	"<!-- end tour -->\n" +
	"```console\n$ make nor-this\n```\n"

func TestParse(t *testing.T) {
	got, err := tour.Parse(sample)
	want := []tour.Step{
		{Line: 11, Command: "first", Output: []string{"its output", "", "more"}},
		{Line: 15, Command: "second \\\n    goes on"},
		{Line: 19, Command: "third &", Background: true},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Parse = %+v, %v\nwant    %+v", got, err, want)
	}
	for name, document := range map[string]string{
		"no tour":                      "# Nothing\n```console\n$ true\n```\n",
		"a tour without an end":        "<!-- tour -->\n```console\n$ true\n```\n",
		"a tour without a command":     "<!-- tour -->\n<!-- end tour -->\n",
		"a block without a command":    "<!-- tour -->\n```console\noutput\n```\n<!-- end tour -->\n",
		"a mark that is another's one": "<!-- tourists -->\n```console\n$ true\n```\n<!-- end tour -->\n",
	} {
		if steps, err := tour.Parse(document); err == nil {
			t.Errorf("%s: Parse = %+v, want an error", name, steps)
		}
	}
}

func TestMatches(t *testing.T) {
	tests := map[string]struct {
		shown, printed string
		fine           bool
	}{
		"the same":                            {"a\nb", "a\nb\n", true},
		"spaces at the end do not count":      {"a ", "a", true},
		"another line":                        {"a", "b", false},
		"an additional line":                  {"a", "a\nb", false},
		"a missing line":                      {"a\nb", "a", false},
		"dots match anything within a line":   {`{"id":"…","n":1}`, `{"id":"x y","n":1}`, true},
		"dots do not match the next line":     {"a…b", "a\nb", false},
		"the rest of the line counts":         {`{"id":"…","n":1}`, `{"id":"x","n":2}`, false},
		"a line of dots matches many lines":   {"a\n…\nd", "a\nb\nc\nd", true},
		"a line of dots matches zero lines":   {"a\n…\nd", "a\nd", true},
		"regular expressions have no meaning": {"a.c*", "abcc", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			step := tour.Step{Output: strings.Split(test.shown, "\n")}
			if step.Matches(test.printed) != test.fine {
				t.Errorf("Matches of %q shown and %q printed = %v", test.shown, test.printed, !test.fine)
			}
		})
	}
	if !(tour.Step{}).Matches("anything") {
		t.Error("Matches = false for a step that shows no output, want true for any output")
	}
}

func TestRun(t *testing.T) {
	steps := []tour.Step{
		{Command: "x=1 # variables are kept"},
		{Command: `echo "x is $x"; echo aside >&2`, Output: []string{"x is 1"}},
		{Command: "{ until test -e go; do sleep 0.05; done; touch done; sleep 1000; } &", Background: true},
		{Command: "printf 'no end of line'", Output: []string{"no end of line"}},
		{Command: "touch go"},
		{Command: "cat done", Output: nil}, // fails until the file exists
		{Command: "sh -c 'exit 28' --max-time"},
		{Command: "pwd", Output: []string{"…"}},
	}
	directory := t.TempDir()
	if err := tour.Run(t.Context(), steps, directory, t.TempDir()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(directory, "done")); err != nil {
		t.Errorf("the tour did not run in its directory: %v", err)
	}
	broken := []tour.Step{{Line: 7, Command: "exit 3"}}
	if err := tour.Run(t.Context(), broken, directory, t.TempDir()); err == nil || !strings.Contains(err.Error(), "line 7: exit 3") {
		t.Errorf("error of a command that ends the shell = %v, want one that names line 7", err)
	}
}

// TestDocuments runs the tours of the README and of the documents that it refers readers to.
func TestDocuments(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "docs/api.md"} {
		t.Run(name, func(t *testing.T) {
			document, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			steps, err := tour.Parse(string(document))
			if err != nil {
				t.Fatal(err)
			}
			// The tour uses the same ports as a reader.
			for _, port := range []string{"8008", "8009", "8010", "8080", "8081", "8082"} {
				listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
				if err != nil {
					t.Fatalf("the tour needs the ports 8008 to 8010 and 8080 to 8082: %v", err)
				}
				_ = listener.Close()
			}
			if err := tour.Run(t.Context(), steps, copyOf(t, root), t.TempDir()); err != nil {
				t.Error(err)
			}
		})
	}
}

// copyOf returns a fresh copy of the files that are, or will be, under version
// control.
func copyOf(t *testing.T, root string) string {
	t.Helper()
	files, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z", "-co", "--exclude-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimRight(string(files), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, but the deletion is not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(target, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return target
}
