//go:build !linux

package wal

import "os"

func syncData(file *os.File) error { return file.Sync() }
