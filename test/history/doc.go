// Package history has clients write and read through all instances of a cluster,
// keeps what they did and what they were told, and has porcupine search for an
// order of it that a single registry could have produced.
//
// It disturbs nobody: that is up to the test that uses it.
package history
