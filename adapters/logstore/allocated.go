package logstore

import (
	"io/fs"
	"syscall"
)

// allocated is how many bytes of a file lie on the disk.
func allocated(info fs.FileInfo) int64 {
	const block = 512 // whatever the file system's own blocks are
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * block
	}
	return info.Size()
}
