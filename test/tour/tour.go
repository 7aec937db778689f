// Package tour runs the commands that a document shows, in the order shown, and
// compares their output with what the document shows. So a reader who copies the
// commands gets what the document promises.
//
// It runs only what stands between two marks in the document, and adds nothing:
// what a reader has to do, the document has to say.
//
//	<!-- tour -->      begins the part that is run
//	<!-- end tour -->  ends it
//
// In between, every fenced block with the language console is run. The rules:
//
//   - A line that begins with "$ " is a command. A command that ends with a
//     backslash continues on the next line. All commands go to one bash, in the
//     root of a fresh copy of the repository.
//   - A command that ends with " &" runs in the background until the end of the
//     tour. Its output is ignored.
//   - Any other command has to exit with 0, or with 28 if it has a --max-time,
//     with which curl exits when that time has passed.
//   - The lines below a command are its expected standard output; if there are
//     none, it may print anything. In a line, … matches any characters; a line
//     with only … matches any number of lines.
//   - A command with a wrong result is retried for a while, as a reader would who
//     was faster than the instances.
package tour

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// The marks may say more, as in <!-- tour: how it is checked -->.
var (
	begin = regexp.MustCompile(`^<!-- tour\b`)
	end   = regexp.MustCompile(`^<!-- end tour\b`)
)

// Step is one command of a tour.
type Step struct {
	Line    int // in the document, from 1
	Command string
	// Background says that the command runs until the end of the tour.
	Background bool
	// Output is the output that the document shows; nil for none.
	Output []string
}

// Parse returns the steps of the tour in a document. It is an error if the document
// has no tour, if a tour has no end, or if a block does not begin with a command.
func Parse(document string) ([]Step, error) {
	var steps []Step
	const (
		before = iota
		inside
		after
	)
	place := before
	inBlock, continued := false, false
	for n, line := range strings.Split(document, "\n") {
		number := n + 1
		switch {
		case place == before || place == after:
			if begin.MatchString(line) {
				place = inside
			}
		case !inBlock && end.MatchString(line):
			place = after
		case !inBlock:
			inBlock = strings.TrimSpace(line) == "```console"
			continued = false
		case strings.TrimSpace(line) == "```":
			inBlock = false
		case continued:
			last := &steps[len(steps)-1]
			last.Command += "\n" + line
			continued = strings.HasSuffix(line, `\`)
			last.settle()
		case strings.HasPrefix(line, "$ "):
			step := Step{Line: number, Command: strings.TrimPrefix(line, "$ ")}
			continued = strings.HasSuffix(line, `\`)
			step.settle()
			steps = append(steps, step)
		case len(steps) == 0:
			return nil, fmt.Errorf("line %d: a block does not begin with a command", number)
		default:
			last := &steps[len(steps)-1]
			last.Output = append(last.Output, line)
		}
	}
	switch {
	case place == inside:
		return nil, errors.New("the tour has no end")
	case len(steps) == 0:
		return nil, errors.New("there is no tour")
	}
	return steps, nil
}

// settle sets Background from the part of the command that is known so far.
func (s *Step) settle() {
	s.Background = strings.HasSuffix(s.Command, " &")
}

// Matches reports whether got is the output that the step shows.
func (s Step) Matches(got string) bool {
	if s.Output == nil {
		return true
	}
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range s.Output {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " \t"), "…")
		for n, part := range parts {
			parts[n] = regexp.QuoteMeta(part)
		}
		pattern.WriteString(strings.Join(parts, ".*") + `[ \t\r]*\n`)
	}
	pattern.WriteString(`\z`)
	return regexp.MustCompile(pattern.String()).MatchString(strings.TrimRight(got, "\n") + "\n")
}
