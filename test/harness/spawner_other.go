//go:build !linux

package harness

import "syscall"

// dieWithParent returns nil: this system can't do it, so only the cleanup of the
// tests ends children.
func dieWithParent() *syscall.SysProcAttr { return nil }
