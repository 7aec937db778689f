// Package app holds the use cases: what a request about cache nodes or about
// the raft cluster means in terms of the ports. It knows neither raft nor HTTP nor a
// disk. It never decides what the registry allows: package domain does, when a command
// is applied.
package app
