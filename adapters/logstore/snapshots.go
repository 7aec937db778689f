package logstore

import "fmt"

// SnapshotsFolder is where raft keeps its snapshots in the directory.
const SnapshotsFolder = "snapshots"

// SnapshotName reads how raft calls the folder of a snapshot that is complete: made is in
// milliseconds.
func SnapshotName(name string) (term, index uint64, made int64, ok bool) {
	_, err := fmt.Sscanf(name+"\n", "%d-%d-%d\n", &term, &index, &made)
	return term, index, made, err == nil
}
