package daemon

import (
	"fmt"
	"syscall"
)

// keptFiles is how many of the files that the process may have open are not for clients:
// at most 1024 connections to the raft port, and what the log and its snapshots need.
// Where that is more than half of them it is half.
const keptFiles = 1200

// maxConnections is how many clients may be connected. Go raises the limit of open files
// as far as it may when the process starts.
func maxConnections() (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("how many files may be open: %w", err)
	}
	most := min(int64(files.Cur), 1<<30) // the field has another type elsewhere
	return int(max(2, most-min(most/2, keptFiles))), nil
}
