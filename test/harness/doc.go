// Package harness runs real nodesmetadata processes, on loopback or on a Network
// whose links can be cut, and talks to them as their users do: with flags, signals,
// HTTP and server-sent events. Tests of whole clusters are built on it.
//
// It knows only the public interface of the program: it imports none of its
// packages, reads none of its files, and takes no shortcut that a client or an
// operator would not have. It polls with a deadline instead of sleeping for a fixed
// time.
//
// A package that uses it has a TestMain that calls Main. Methods that do not return
// an error report failures to the testing.TB that the Cluster was made with, and
// may only be called from the goroutine of the test. Methods of Client return
// errors and may be called from any goroutine.
package harness
