//go:build !race

package harness

// Race reports whether the tests, and so the program, are built with the race
// detector. Speed and memory are then not those of production.
const Race = false
