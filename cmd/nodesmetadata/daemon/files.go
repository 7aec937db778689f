package daemon

import (
	"fmt"
	"syscall"
)

// keptFiles is how many of the file descriptors of the process are not for clients: at most
// 1024 connections to the raft port, and what the log and the snapshots need. If that is
// more than half of them, half is kept.
const keptFiles = 1200

// maxConnections returns how many clients may be connected. Go has raised the soft limit of
// open files to the hard one when the process started.
func maxConnections() (int, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("how many files may be open: %w", err)
	}
	return connectionsOf(int64(files.Cur)), nil // the field has another type elsewhere
}

// connectionsOf is maxConnections of a process that may open so many files.
func connectionsOf(files int64) int {
	files = min(files, 1<<30)
	return int(max(2, files-min(files/2, keptFiles)))
}
