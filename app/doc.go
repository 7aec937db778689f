// Package app holds the use cases: what a request about cache nodes or about
// the raft cluster means, told in terms of the ports. It knows neither raft nor
// HTTP nor a disk, and it never decides what the registry allows: that is
// decided in package domain, when a command is applied.
package app
