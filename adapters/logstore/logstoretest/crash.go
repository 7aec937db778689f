package logstoretest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// crashDirEnv makes a process the crash child, and tells it its directory.
const crashDirEnv = "LOGSTORETEST_CRASH_DIR"

const (
	crashKeep       = 400 // entries that the child leaves when it removes the beginning
	crashKillRounds = 6
)

// sizeAt is the size of the entry at index: mostly small, now and then so large
// that a batch of them is more than a backend writes at once.
func sizeAt(index uint64) int {
	if index/64%4 == 3 {
		return 96 << 10
	}
	return int(index % 300)
}

// CrashChild turns this process into the one that the test "after a kill" kills. If
// the environment says so, CrashChild writes to a store until the process is killed,
// and never returns; otherwise it does nothing. Call it first in TestMain.
func CrashChild(open logstore.Opener) {
	dir, ok := os.LookupEnv(crashDirEnv)
	if !ok {
		return
	}
	// The child must end by being killed; to get here is a failure.
	fmt.Fprintln(os.Stderr, "crash child:", writeUntilKilled(dir, open))
	os.Exit(1)
}

// writeUntilKilled appends entries, and removes some from the beginning and the end. After
// each step it prints what the store must hold from then on: the bounds between which
// every entry is present, and the step number in the stable state.
func writeUntilKilled(dir string, open logstore.Opener) error {
	store, err := open(dir, nil)
	if err != nil {
		return err
	}
	last, err := store.LastIndex()
	if err != nil {
		return err
	}
	first, err := store.FirstIndex()
	if err != nil {
		return err
	}
	first = max(first, 1)
	say := func(step uint64) { fmt.Printf("holds %d %d %d\n", first, last, step) }
	step, err := store.GetUint64([]byte("step"))
	if err != nil && !errors.Is(err, logstore.ErrKeyNotFound) {
		return err
	}
	for {
		step++
		if err := store.SetUint64([]byte("step"), step); err != nil {
			return err
		}
		say(step)
		count := 1 + step*7%64
		batch := entries(last+1, last+count, 0)
		for at, log := range batch {
			batch[at] = entry(log.Index, sizeAt(log.Index))
		}
		if err := store.StoreLogs(batch); err != nil {
			return err
		}
		last += count
		say(step)
		if step%5 == 0 {
			// Print the lower bound before the removal, which may be half done at the kill.
			last -= min(count, 5)
			say(step)
			if err := store.DeleteRange(last+1, last+5); err != nil {
				return err
			}
		}
		if step%8 == 0 && last > first+2*crashKeep {
			first = last - crashKeep
			say(step)
			if err := store.DeleteRange(1, first-1); err != nil {
				return err
			}
		}
	}
}

// holds is one line that the child printed.
type holds struct{ first, last, step uint64 }

func (s *suite) afterKill(t *testing.T) {
	dir := t.TempDir()
	for round := range crashKillRounds {
		// The child continues at once after each line, so the kill interrupts an operation;
		// a different number of lines interrupts a different one.
		said := s.runAndKill(t, dir, 12+round*17)
		store := s.open(t, dir)
		s.checkAfterKill(t, store, said)
		if err := store.Close(); err != nil {
			t.Fatalf("close: %v", err)
		}
	}
}

func (s *suite) checkAfterKill(t *testing.T, store logstore.Store, said holds) {
	t.Helper()
	first, last := bounds(t, store)
	if first > said.first || last < said.last {
		t.Fatalf("bounds = %d and %d, want at least the acknowledged entries from %d to %d", first, last, said.first, said.last)
	}
	for index := first; index <= last; index++ {
		wantEntry(t, store, entry(index, sizeAt(index)))
	}
	if step, err := store.GetUint64([]byte("step")); err != nil || step < said.step || step > said.step+1 {
		t.Fatalf("step = %d, %v, want the acknowledged %d or the next one", step, err, said.step)
	}
}

// runAndKill runs a child until it has printed that many lines, kills it, and returns
// its last complete line.
func (s *suite) runAndKill(t *testing.T, dir string, lines int) holds {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), binary)
	child.Env = append(os.Environ(), crashDirEnv+"="+dir)
	var complaint strings.Builder
	child.Stderr = &complaint
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// A child that hangs is killed, and then fails the test with too few lines.
	late := time.AfterFunc(time.Minute, func() { _ = child.Process.Kill() })
	defer late.Stop()
	var said holds
	count := 0
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		if _, err := fmt.Sscanf(scanner.Text(), "holds %d %d %d", &said.first, &said.last, &said.step); err != nil {
			// The kill cut this line off, so it does not count.
			break
		}
		count++
		if count == lines {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) && !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("wait for the child: %v", err)
	}
	if count < lines {
		t.Fatalf("child ended after %d lines, too early to be killed: %s", count, complaint.String())
	}
	return said
}
