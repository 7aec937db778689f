// Package domain knows what a distributed cache is made of and which changes to
// it are allowed. It decides; it never waits, dials, logs, stores or reads a
// clock, and it holds no lock: one goroutine at a time changes a Registry, and
// what it hands out (View, CacheNode, Change) never changes afterwards, so
// anybody may read that at any time.
package domain
