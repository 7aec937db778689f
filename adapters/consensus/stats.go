package consensus

// Stats describes this instance at one moment. Fields named Total count since its start.
type Stats struct {
	// Opened says whether raft runs. Before that all other fields are zero.
	Opened bool
	Term   uint64
	Leads  bool
	// The indexes of the last entry in the log, the last that is known to be committed, and
	// the last that is applied.
	LastIndex, CommitIndex, AppliedIndex uint64
	// ProofsTotal counts rounds of the read gate, and ProvenTotal the reads that shared
	// them. QuestionsTotal counts questions to the leader for reads that are answered here,
	// and AskedTotal the reads that shared those.
	ProofsTotal, ProvenTotal, QuestionsTotal, AskedTotal uint64
	// Format is the latest log format that this build reads, and SharedFormat the latest
	// that every instance is known to read.
	Format, SharedFormat int
	// DiskTrouble says whether the disk hangs or refuses; DiskTroublesTotal counts how often
	// that began.
	DiskTrouble       bool
	DiskTroublesTotal uint64
	// LogBytes and SnapshotBytes are the sizes of log and snapshots on disk.
	LogBytes, SnapshotBytes int64
}

// Stats may be called at any time. It reads the directory for the sizes on disk.
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
		DiskTroublesTotal: n.disk.Troubles(),
	}
}
