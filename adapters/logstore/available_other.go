//go:build !linux

package logstore

func available(string) (uint64, bool) { return 0, false }
