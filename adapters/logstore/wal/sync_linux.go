package wal

import (
	"errors"
	"os"
	"syscall"
)

// syncData makes what is in a file durable, without the times that nobody asks for.
func syncData(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			failed = syscall.Fdatasync(int(fd))
			if !errors.Is(failed, syscall.EINTR) {
				return
			}
		}
	})
	if err == nil && failed != nil {
		err = &os.PathError{Op: "fdatasync", Path: file.Name(), Err: failed}
	}
	return err
}
