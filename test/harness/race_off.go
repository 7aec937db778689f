//go:build !race

package harness

// Race says whether the tests, and so the program, are built with the race
// detector: then neither speed nor memory are those of production.
const Race = false
