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

// Process is a server process that can be started again after it has exited. It has
// one caller at a time.
type Process struct {
	name    string
	path    string
	args    []string
	output  string // file for standard output and standard error
	data    string // directory of its data; "" if it has none
	running *exec.Cmd
	ended   chan error
}

// Start starts the process without waiting until it is ready.
func (p *Process) Start() error {
	output, err := os.OpenFile(p.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close() // the child has its own copy
	p.running = exec.Command(p.path, p.args...)
	// The Go runtime settings of the load generator must not apply to the servers.
	p.running.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "GODEBUG=") })
	p.running.Stdout, p.running.Stderr = output, output
	if err := p.running.Start(); err != nil {
		return err
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.running.Wait() }()
	return nil
}

// Kill ends the process with SIGKILL and waits until it has exited.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return p.Wait()
}

// Signal sends a signal and does not wait for its effect.
func (p *Process) Signal(signal syscall.Signal) error {
	if p.running == nil {
		return nil
	}
	return p.running.Process.Signal(signal)
}

// Wait waits until the process has exited. It is an error if that takes too long;
// the exit status does not matter.
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

// ticks is USER_HZ, which is 100 on every Linux that Go supports.
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

// Memory returns the resident set size, in bytes.
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

// Disk returns the disk space that its files take, in bytes.
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

// gone ignores that a file does not exist, since a server may remove files while
// they are counted.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
