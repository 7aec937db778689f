//go:build !linux

package logstoretest

import "testing"

// Unlisted skips the test: only Linux has Setfsuid.
func Unlisted(tb testing.TB, _ string, _ func()) {
	tb.Helper()
	tb.Skip("skipped: it takes a user of the file system for one thread, which Linux has")
}
