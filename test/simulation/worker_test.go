package simulation

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Histories run in worker processes, which execute this same test binary, because a
// history needs a single processor and raft's random numbers to itself, and raft
// may panic.

// assignment is what a worker has to do.
type assignment struct {
	Seeds  []uint64
	Broken string // name of the defect; empty for none
	// Enough says that the worker stops after the first history that fails.
	Enough bool
}

// report is a line of JSON that a worker writes before and after each history.
type report struct {
	Seed       uint64
	Ended      bool
	Found      []string
	Trace      []string // only with Found
	Operations int      // that were answered
	Changes    int
	Faults     int
	Searched   bool // porcupine finished its search
	Digest     uint32
}

const reportMark = "report: "

// TestWorker is not a test but the main function of a worker: see above.
func TestWorker(t *testing.T) {
	if *job == "" {
		t.Skip("this is the main function of worker processes")
	}
	var a assignment
	must(json.Unmarshal([]byte(*job), &a))
	for _, s := range a.Seeds {
		write(report{Seed: s})
		directory := t.TempDir()
		var h *story
		left := inBubble(t, func() { h = run(s, brokenThings[a.Broken], directory) })
		h.failures = append(h.failures, left...)
		r := h.report()
		write(r)
		must(os.RemoveAll(directory))
		if a.Enough && len(r.Found) > 0 {
			return
		}
	}
}

// inBubble calls do in a bubble, and returns the stacks of goroutines that do leaves behind.
func inBubble(t *testing.T, do func()) (left []string) {
	defer func() {
		if recover() != nil {
			left = leftBehind()
		}
	}()
	synctest.Test(t, func(*testing.T) { do() })
	return nil
}

// leftBehind returns the stacks of goroutines left in the bubble. It ignores two that
// raft 1.7.3 leaks when it loses leadership during a leadership transfer
// (hashicorp/raft issue 696).
func leftBehind() (left []string) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		forgotten := strings.Contains(stack, "raft.(*Raft).leadershipTransfer(") || strings.Contains(stack, "raft.(*Raft).leaderLoop.func")
		if strings.Contains(head, "synctest bubble") && !forgotten {
			left = append(left, "a goroutine was left behind: "+stack)
		}
	}
	return left
}

func write(r report) {
	line, err := json.Marshal(r)
	must(err)
	fmt.Println(reportMark + string(line))
}

// silenceLimit is how long a worker may write nothing. A history takes some
// hundredths of a second, or several seconds with the race detector on a busy
// machine.
const silenceLimit = 2 * time.Minute

// work runs an assignment in a worker, which is this program or, if program is not
// empty, another build of it. It returns the reports of the histories. If a worker
// dies, the rest of its seeds is not run.
func work(ctx context.Context, t *testing.T, program string, a assignment) []report {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told, err := json.Marshal(a)
	must(err)
	if program == "" {
		program, err = os.Executable()
		must(err)
	}
	command := exec.CommandContext(ctx, program, "-test.run=^TestWorker$", "-test.timeout=0", "-job="+string(told))
	// Without randseednop=0 raft's random numbers can't be seeded. Without
	// preemption a goroutine runs until it blocks.
	command.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400", "GODEBUG=randseednop=0,asyncpreemptoff=1", "TMPDIR="+scratch(t))
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.StdoutPipe()
	must(err)
	if err := command.Start(); err != nil {
		t.Errorf("start a worker: %v", err)
		return nil
	}
	timer := time.AfterFunc(silenceLimit, cancel)
	defer timer.Stop()
	reports, rest := read(output, func() { timer.Reset(silenceLimit) })
	err = command.Wait()
	if n := len(reports); n > 0 && !reports[n-1].Ended {
		reports[n-1].Found = []string{fmt.Sprintf("the worker ended in the middle of the history: %v", err)}
		reports[n-1].Trace = append(rest, strings.Split(stderr.String(), "\n")...)
	} else if err != nil {
		t.Errorf("a worker failed: %v\n%s\n%s", err, strings.Join(rest, "\n"), &stderr)
	}
	return reports
}

// read returns the reports in a worker's output, and all other lines. It calls each for
// every line.
func read(output io.Reader, each func()) (reports []report, rest []string) {
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadString('\n')
		each()
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), reportMark); ok {
			var r report
			must(json.Unmarshal([]byte(text), &r))
			if n := len(reports); n > 0 && !reports[n-1].Ended && r.Ended {
				reports = reports[:n-1]
			}
			reports = append(reports, r)
		} else if line != "" {
			rest = append(rest, strings.TrimRight(line, "\n"))
		}
		if err != nil {
			return reports, rest
		}
	}
}

// scratch returns a directory in memory where there is one, since instances sync their files.
func scratch(t *testing.T) string {
	parent := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		parent = "/dev/shm"
	}
	directory, err := os.MkdirTemp(parent, "nodesmetadata-simulation-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	return directory
}

// shards distributes seeds over workers.
func shards(from uint64, count, workers int) [][]uint64 {
	dealt := make([][]uint64, min(workers, count))
	for n := range count {
		dealt[n%len(dealt)] = append(dealt[n%len(dealt)], from+uint64(n))
	}
	return dealt
}

// tell fails the test with a report that has found something.
func tell(t *testing.T, r report) {
	t.Helper()
	trace := filepath.Join(t.ArtifactDir(), fmt.Sprintf("seed-%d.txt", r.Seed))
	must(os.WriteFile(trace, []byte(strings.Join(r.Trace, "\n")+"\n"), 0o600))
	t.Errorf("seed %d: replay it with\n\tgo test ./test/simulation -run TestHistories -seed=%d\n%s\nthe end of the trace, which -artifacts keeps as a whole:\n%s",
		r.Seed, r.Seed, strings.Join(r.Found[:min(len(r.Found), 8)], "\n"), strings.Join(r.Trace[max(0, len(r.Trace)-60):], "\n"))
}

func failing(reports []report) []report {
	return slices.DeleteFunc(slices.Clone(reports), func(r report) bool { return len(r.Found) == 0 })
}
