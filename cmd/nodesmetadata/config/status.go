package config

import (
	"fmt"
	"io"
	"strings"
)

// The exit statuses of the program.
const (
	Done    = 0 // what was asked for was done; an instance has stopped, and in time
	Failed  = 1 // it was not done, or something is wrong
	Misused = 2 // what the operator said makes no sense; nothing was touched
)

// SayMisused tells the operator what makes no sense, and which command says what
// does. It returns Misused.
func SayMisused(stderr io.Writer, help string, err error) int {
	Complain(stderr, err)
	_, _ = fmt.Fprintln(stderr, "nodesmetadata: see", help)
	return Misused
}

// Complain tells the operator of every line of err.
func Complain(stderr io.Writer, err error) {
	for line := range strings.Lines(err.Error()) {
		_, _ = fmt.Fprintln(stderr, "nodesmetadata:", strings.TrimSpace(line))
	}
}
