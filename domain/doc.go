// Package domain knows what a distributed cache is made of and which changes to
// it are allowed. It decides; it never waits, dials, logs, stores, locks or reads a
// clock. One goroutine at a time may use a Registry. The values that it hands out
// (View, CacheNode, Change) are never modified afterwards, so any goroutine may read
// them at any time.
package domain
