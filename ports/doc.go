// Package ports is the boundary of the service: the interfaces through which
// the world asks something of it (Nodes, Leases, Backups, Cluster, LeaderLocator, Self,
// ReadIndexer, Joining), and those through which it asks something of the world (Registry, Local,
// Membership, Promotions, Formats, Restorer, Peers, Admission).
// Each interface carries its whole contract. What these speak of are values and errors,
// which say in words what they mean to an operator (LocalState.Unready), alike for all who
// ask. The package does nothing else, and depends on no way to replicate, to serve or to
// store.
package ports
