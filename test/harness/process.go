package harness

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ResidentBytes returns the resident memory of the process. It works on Linux only.
func (i *Instance) ResidentBytes() int64 {
	i.t.Helper()
	path := fmt.Sprintf("/proc/%d/status", i.Pid())
	content, err := os.ReadFile(path)
	if err != nil {
		i.t.Skipf("the memory of a process can only be measured on Linux: %v", err)
	}
	for line := range strings.Lines(string(content)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	i.t.Fatalf("%s contains no VmRSS", path)
	return 0
}

// clockTick is the unit in which Linux reports processor time to user space, on
// every architecture that Go supports.
const clockTick = time.Second / 100

// CPUTime returns the user and system time that the process has used, in steps of 10
// ms. It works on Linux only.
func (i *Instance) CPUTime() time.Duration {
	i.t.Helper()
	path := fmt.Sprintf("/proc/%d/stat", i.Pid())
	content, err := os.ReadFile(path)
	if err != nil {
		i.t.Skipf("the processor time of a process can only be measured on Linux: %v", err)
	}
	// The name of the program, in parentheses, may contain anything. Field 3, the
	// state, follows it; utime and stime are fields 14 and 15.
	_, after, _ := strings.Cut(string(content), ") ")
	fields := strings.Fields(after)
	var ticks time.Duration
	for _, field := range []int{14, 15} {
		n, err := strconv.ParseInt(fields[field-3], 10, 64)
		if err != nil {
			i.t.Fatalf("%s: %v", path, err)
		}
		ticks += time.Duration(n)
	}
	return ticks * clockTick
}
