package servers

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a server that can be started again after it has ended. It is for one
// caller at a time.
type Process struct {
	name    string
	path    string
	args    []string
	output  string // file that takes standard output and error
	data    string // directory of its data; "" for none
	running *exec.Cmd
	ended   chan error
}

// Start begins the process; that it is ready is another matter.
func (p *Process) Start() error {
	output, err := os.OpenFile(p.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close() // the child has its own
	p.running = exec.Command(p.path, p.args...)
	// How the Go runtime of the load is tuned is not how the servers are.
	p.running.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "GODEBUG=") })
	p.running.Stdout, p.running.Stderr = output, output
	if err := p.running.Start(); err != nil {
		return err
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.running.Wait() }()
	return nil
}

// Kill ends it with SIGKILL, and comes back when it is gone.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return p.Wait()
}

// Signal does not wait for what comes of it.
func (p *Process) Signal(signal syscall.Signal) error {
	if p.running == nil {
		return nil
	}
	return p.running.Process.Signal(signal)
}

// Wait comes back when the process is gone, with an error when that takes too
// long. How it ended is of no interest.
func (p *Process) Wait() error {
	if p.running == nil {
		return nil
	}
	select {
	case <-p.ended:
		p.running = nil
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s has not ended after 30 s", p.name)
	}
}

// ticks is USER_HZ, which is 100 on every Linux that Go runs on.
const ticks = 100

// CPU is the processor time that the process has used since it started.
func (p *Process) CPU() (time.Duration, error) {
	text, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, err
	}
	// The second field is the name, in parentheses; utime and stime are the 14th
	// and the 15th.
	_, after, found := bytes.Cut(text, []byte(") "))
	fields := strings.Fields(string(after))
	if !found || len(fields) < 13 {
		return 0, fmt.Errorf("%s: what is %q?", p.proc("stat"), text)
	}
	var sum time.Duration
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * time.Second / ticks
	}
	return sum, nil
}

// Memory is the resident set, in bytes.
func (p *Process) Memory() (int64, error) {
	text, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("%s names no VmRSS", p.proc("status"))
}

func (p *Process) proc(file string) string {
	if p.running == nil {
		return "/proc/0/" + file
	}
	return fmt.Sprintf("/proc/%d/%s", p.running.Process.Pid, file)
}

// Disk is what its files take of the disk, in bytes.
func (p *Process) Disk() (int64, error) {
	if p.data == "" {
		return 0, nil
	}
	var sum int64
	err := filepath.WalkDir(p.data, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return gone(err)
		}
		info, err := entry.Info()
		if err != nil {
			return gone(err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			sum += stat.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// gone: a server may remove files while they are counted.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
