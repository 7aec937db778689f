package logstore

import "fmt"

// SnapshotsFolder is where raft keeps its snapshots in the directory.
const SnapshotsFolder = "snapshots"

// SnapshotName parses the name that raft gives the folder of a complete snapshot. made is
// in Unix milliseconds.
func SnapshotName(name string) (term, index uint64, made int64, ok bool) {
	_, err := fmt.Sscanf(name+"\n", "%d-%d-%d\n", &term, &index, &made)
	return term, index, made, err == nil
}
