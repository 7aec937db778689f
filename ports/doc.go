// Package ports is the boundary of the service: the interfaces through which
// the world asks something of it (Nodes, Leases, Backups, Cluster, Self, Progress),
// and those through which it asks something of the world (Registry, Local, Membership,
// Promotions, Formats, Restorer, Peers, Admission).
// Each interface carries its whole contract. It holds no behaviour, and names
// neither raft nor HTTP nor a disk.
package ports
