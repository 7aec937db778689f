// Package history has clients write and read through all instances of a cluster,
// records what they asked and what they were told, and has porcupine search for an
// order of the operations that a single registry could have produced.
//
// It injects no faults: that is up to the test that uses it.
package history
