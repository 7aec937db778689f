package consensus

// Stats are of this instance, now; what is called Total counts since its start.
type Stats struct {
	// Opened: raft runs. Before that all else is zero.
	Opened bool
	Term   uint64
	Leads  bool
	// The indexes are places in the log: the last entry that is stored, the last
	// that is known to be committed, and the last that is applied.
	LastIndex, CommitIndex, AppliedIndex uint64
	// ProofsTotal are rounds of the read gate, and ProvenTotal the reads that
	// asked for one; QuestionsTotal are those to the leader for reads that are
	// answered here, and AskedTotal those reads.
	ProofsTotal, ProvenTotal, QuestionsTotal, AskedTotal uint64
	// Format is what this build reads of the log, and SharedFormat what every
	// instance is known to read.
	Format, SharedFormat int
	// DiskTrouble: the disk hangs or refuses; DiskTroublesTotal is how often that began.
	DiskTrouble       bool
	DiskTroublesTotal uint64
	// LogBytes and SnapshotBytes are what the directory takes on disk.
	LogBytes, SnapshotBytes int64
}

// Stats may be called at any time. It looks at the directory.
func (n *Node) Stats() Stats {
	state := n.state.read()
	if !state.opened {
		return Stats{}
	}
	logBytes, snapshotBytes := n.directory.Usage()
	return Stats{
		Opened:            true,
		Term:              state.Term,
		Leads:             state.Leading,
		LastIndex:         n.raft.LastIndex(),
		CommitIndex:       n.raft.CommitIndex(),
		AppliedIndex:      state.Applied,
		ProofsTotal:       n.gate.rounds.begun.Load(),
		ProvenTotal:       n.gate.rounds.shared.Load(),
		QuestionsTotal:    n.asking.begun.Load(),
		AskedTotal:        n.asking.shared.Load(),
		Format:            n.formats.own,
		SharedFormat:      n.Shared(),
		LogBytes:          logBytes,
		SnapshotBytes:     snapshotBytes,
		DiskTrouble:       state.DiskTrouble != "",
		DiskTroublesTotal: n.disk.count.Load(),
	}
}
