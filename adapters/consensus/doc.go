// Package consensus drives hashicorp/raft: it replicates the registry, proves
// leadership for linearizable reads, changes the membership of the raft cluster, keeps
// the wishes of who is to be promoted in it, and keeps the state machine and the format
// of log entries and of snapshots. It is the only package that does.
//
// It decides nothing about cache nodes: domain.Registry does, when a committed
// command is applied. It never keeps an application address, and never answers
// a read from state whose freshness it has not proven, except through
// ports.Local, which promises none.
package consensus
