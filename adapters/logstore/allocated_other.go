//go:build !unix

package logstore

import "io/fs"

// allocated is how many bytes a file has.
func allocated(info fs.FileInfo) int64 { return info.Size() }
