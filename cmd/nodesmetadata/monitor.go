package main

import (
	"os"
	"strings"
	"syscall"
)

// schedtrace is what GODEBUG is given. The interval is the longest there is, in
// milliseconds: 24 days.
const schedtrace = "schedtrace=2147483647"

// keepMonitorAwake has this process begin anew, if it has to, with a setting that the Go
// runtime reads when it begins.
//
// The runtime has a thread, its monitor, that looks every 20 µs at what runs. When nothing
// does it goes to sleep, and the next system call wakes it, to look every 20 µs again. An
// instance that is asked and has to ask others does nothing for a moment thousands of
// times a second, and that thread took a quarter of all that it spent. While the
// scheduler is traced the monitor does not go to sleep like that, and has soon come down to one
// look every 10 ms. See docs/adr/0023-the-runtimes-monitor.md.
//
// It comes back where the process has begun so, where the operator has an interval of
// their own, and where it can't be done, which costs speed alone.
func keepMonitorAwake() {
	settings := os.Getenv("GODEBUG")
	if strings.Contains(settings, "schedtrace=") {
		return
	}
	program, err := os.Executable()
	if err != nil {
		return
	}
	settings = strings.TrimPrefix(settings+","+schedtrace, ",")
	if os.Setenv("GODEBUG", settings) != nil {
		return
	}
	_ = syscall.Exec(program, os.Args, os.Environ())
}
