//go:build !linux

package harness

import "syscall"

// dieWithParent can't be had here: only the cleanup of the tests ends children.
func dieWithParent() *syscall.SysProcAttr { return nil }
