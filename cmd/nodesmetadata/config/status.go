package config

import (
	"fmt"
	"io"
	"strings"
)

// The exit statuses of the program.
const (
	Done    = 0 // success; an instance has stopped in time
	Failed  = 1 // failure, or something is wrong
	Misused = 2 // the arguments are wrong; nothing was touched
)

// SayMisused reports wrong arguments, and the command that shows the right ones. It
// returns Misused.
func SayMisused(stderr io.Writer, help string, err error) int {
	Complain(stderr, err)
	_, _ = fmt.Fprintln(stderr, "nodesmetadata: see", help)
	return Misused
}

// Complain reports err to the operator, line by line.
func Complain(stderr io.Writer, err error) {
	for line := range strings.Lines(err.Error()) {
		_, _ = fmt.Fprintln(stderr, "nodesmetadata:", strings.TrimSpace(line))
	}
}
