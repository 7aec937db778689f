// Package ports is the boundary of the service. Its inbound interfaces are what the world
// asks of the service: Nodes, Leases, Backups, Cluster, LeaderLocator, Self, ReadIndexer
// and JoinStatus. Its outbound interfaces are what the service asks of the world: Registry,
// Local, Membership, Leadership, Promotions, Formats, Restorer, Peers, Admission and
// JoinIntent.
//
// Each interface carries its whole contract. Beside interfaces the package has only the
// values and errors that they speak of, and the words that tell an operator what these
// mean (LocalState.Unready). It depends on no way to replicate, to serve or to store.
package ports
