package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// machine describes the commit and the machine that are measured, and the latency
// of the smallest possible operation of its disk and of its network.
func machine(repository, directory string, s scale) (string, error) {
	disk, err := syncs(filepath.Join(directory, "sync"))
	if err != nil {
		return "", err
	}
	network, err := roundTrips()
	if err != nil {
		return "", err
	}
	commit, err := exec.Command("git", "-C", repository, "describe", "--always", "--dirty").Output()
	if err != nil {
		return "", fmt.Errorf("git describe: %w", err)
	}
	return fmt.Sprintf("Commit %s, %s, %s, %s, %s. Medians of %d rounds of %v each. "+
		"One fdatasync of 4 KiB took %s, one round trip over loopback %s (medians, before the run).",
		strings.TrimSpace(string(commit)), time.Now().UTC().Format(time.DateOnly), count(runtime.NumCPU(), "processor")+" ("+processor()+")",
		kernel(), runtime.Version(), s.rounds, s.time, span(disk), span(network)), nil
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	text, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return "Linux " + strings.TrimSpace(string(text))
}

// syncs measures an append with a sync, as a log does it.
func syncs(path string) (time.Duration, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4<<10)
	return median(200, func() error {
		if _, err := f.Write(page); err != nil {
			return err
		}
		return syscall.Fdatasync(int(f.Fd()))
	})
}

// roundTrips measures the round trip of one byte over loopback.
func roundTrips() (time.Duration, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	echoed := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.Copy(conn, conn)
			_ = conn.Close()
		}
		echoed <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	b := []byte{0}
	took, err := median(2000, func() error {
		if _, err := conn.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, b)
		return err
	})
	_ = conn.Close()
	if err == nil {
		err = <-echoed
	}
	return took, err
}

func median(times int, do func() error) (time.Duration, error) {
	all := make([]time.Duration, times)
	for i := range all {
		began := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		all[i] = time.Since(began)
	}
	slices.Sort(all)
	return percentile(all, 50), nil
}
