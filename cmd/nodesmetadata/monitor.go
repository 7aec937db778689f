package main

import (
	"os"
	"strings"
	"syscall"
)

// schedtrace is the setting for GODEBUG. The interval is the longest possible one: 24 days
// in milliseconds.
const schedtrace = "schedtrace=2147483647"

// keepMonitorAwake executes this program again, unless GODEBUG has schedtrace already: the
// Go runtime reads that setting only when it starts.
//
// The runtime has a thread, its monitor, that checks every 20 µs what runs. When nothing
// runs it goes to sleep, and the next system call wakes it to check every 20 µs again. An
// instance that waits for others is idle for a moment thousands of times a second, and the
// monitor took a quarter of its CPU time. While the scheduler is traced the monitor does
// not go to sleep, and soon checks only every 10 ms. See
// docs/adr/0023-the-runtimes-monitor.md.
//
// It returns if the setting is there, also one of the operator's own, or if the program
// can't be executed again, which costs only speed.
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
