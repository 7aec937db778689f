package logstore

import "syscall"

// available is how many bytes are free on the disk of directory for users other than
// root.
func available(directory string) (bytes uint64, known bool) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(directory, &stat); err != nil || stat.Bsize <= 0 {
		return 0, false
	}
	return stat.Bavail * uint64(stat.Bsize), true
}
