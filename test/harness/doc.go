// Package harness runs real nodesmetadata processes, on loopback or on a Network
// whose links can be cut, and talks to them as their users do: with flags, signals,
// HTTP and server-sent events. Tests of whole clusters are built on it.
//
// It knows the program by nothing but its public interface: it imports no package
// of it, reads none of its files, and never takes a shortcut that a client or an
// operator would not have. It never waits by sleeping for a while and hoping.
//
// A package that uses it has a TestMain that calls Main. Methods that take no
// error back report failures to the testing.TB that the Cluster was made with;
// those may only be called from the goroutine of the test. The methods of Client,
// which return errors, may be called from any.
package harness
