package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

// sink is a writer that a test can block or make fail.
type sink struct {
	logs
	open chan struct{} // if not nil, each Write receives from it first
	err  error         // if not nil, the result of Write
}

func (s *sink) Write(line []byte) (int, error) {
	if s.open != nil {
		<-s.open
	}
	if s.err != nil {
		return 0, s.err
	}
	return s.logs.Write(line)
}

// record is a line of the log.
type record struct {
	Level  string
	Msg    string
	N      int
	Lines  int
	RaftID string `json:"raft_id"`
}

func (s *sink) records(t *testing.T) []record {
	t.Helper()
	var all []record
	for line := range strings.Lines(s.String()) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// isNote reports whether r says that this many lines are missing.
func (r record) isNote(missing int) bool {
	return r.Level == "WARN" && r.RaftID == "n1" && r.Lines == missing && strings.Contains(r.Msg, "are lost here")
}

// withLogWriter tests a LogWriter that writes to a sink, in a synctest bubble.
func withLogWriter(t *testing.T, args []string, test func(t *testing.T, out daemon.LogWriter, s *sink)) {
	t.Helper()
	c := chosen(t, append(args, "--log_format=json")...)
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		out, err := daemon.NewLogWriter(c, s)
		if err != nil {
			t.Fatal(err)
		}
		test(t, out, s)
	})
}

func TestALogLineIsWrittenAtOnce(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		for n := range 100 {
			out.Info("said", "n", n)
			if got := s.records(t); len(got) != n+1 || got[n].N != n {
				t.Fatalf("after %d lines the sink has %v", n+1, got)
			}
		}
	})
}

func TestALogThatBlocksHoldsNobodyUp(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		s.open = make(chan struct{})
		const said = 20000 // more than the writer keeps
		began := time.Now()
		for n := range said {
			out.Info("said", "n", n)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("logging to a blocked sink took %v, want at most 10ms", took)
		}
		out.Flush(time.Second)
		if took := time.Since(began); took < time.Second || took > 1010*time.Millisecond {
			t.Errorf("Flush of a blocked sink took %v, want 1s", took)
		}
		lost := int(out.Lost())
		if lost == 0 || lost == said {
			t.Fatalf("of %d lines %d are lost, want some but not all", said, lost)
		}

		close(s.open)
		out.Flush(time.Second)
		out.Info("said", "n", said)
		got := s.records(t)
		kept := said - lost
		if len(got) != kept+2 {
			t.Fatalf("of %d lines %d are lost, and %d were written, want the other lines, a note and the last line", said, lost, len(got))
		}
		for n, r := range got[:kept] {
			if r.N != n {
				t.Fatalf("line %d = %+v, want the line with that number", n, r)
			}
		}
		if !got[kept].isNote(lost) || got[kept+1].N != said {
			t.Errorf("after the lines that were kept come %+v, want a note and the last line", got[kept:])
		}
	})
}

// A sink that takes a line now and then must not have more lines pending than one that
// takes none.
func TestPendingLogLinesAreBoundedHoweverSlowTheSink(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		s.open = make(chan struct{})
		said := 0
		fill := func() {
			for lost := out.Lost(); out.Lost() == lost; said++ {
				out.Info("said", "n", said)
			}
		}
		for range 3 {
			fill()
			s.open <- struct{}{} // lets one line through
			synctest.Wait()
		}
		taken := len(s.String())
		fill()
		close(s.open)
		out.Flush(time.Second)
		if pending := len(s.String()) - taken; pending > daemon.MostPending+1000 {
			t.Errorf("pending bytes = %d, want at most %d and a few lines", pending, daemon.MostPending)
		}
		next := 0
		for _, r := range s.records(t) {
			switch {
			case r.isNote(r.Lines):
				next += r.Lines
			case r.N != next:
				t.Fatalf("in the place of line %d is %+v", next, r)
			default:
				next++
			}
		}
		if next != said {
			t.Errorf("of %d lines only %d were written or noted as lost", said, next)
		}
	})
}

// A full disk takes lines again when it has room.
func TestLoggingGoesOnAfterTheSinkHasFailed(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		out.Info("said", "n", 1)
		s.err = errors.New("no room")
		out.Info("said", "n", 2)
		out.Info("said", "n", 3)
		s.err = nil
		out.Info("said", "n", 4)
		got := s.records(t)
		if len(got) != 3 || got[0].N != 1 || !got[1].isNote(2) || got[2].N != 4 || out.Lost() != 2 {
			t.Errorf("lost lines = %d, lines written = %+v, want 2, and line 1, a note and line 4", out.Lost(), got)
		}
	})
}

func TestALogOfErrorsHasNoNotesOfLostLines(t *testing.T) {
	withLogWriter(t, []string{"--log_level=error"}, func(t *testing.T, out daemon.LogWriter, s *sink) {
		s.err = errors.New("no room")
		out.Error("said", "n", 1)
		s.err = nil
		out.Error("said", "n", 2)
		if got := s.records(t); len(got) != 1 || got[0].N != 2 {
			t.Errorf("lines = %+v, want the second line only", got)
		}
	})
}

// The last line of an instance says why it ended.
func TestTheLastLogLinesAreWaitedFor(t *testing.T) {
	slow := &slowSink{}
	args := []string{"--raft_id=n1", "--raft_dir=/dev/null/data", "--raft_bind_address=127.0.0.1:0", "--application_bind_address=127.0.0.1:0"}
	if status := daemon.Run(t.Context(), args, nil, io.Discard, slow); status != 1 {
		t.Errorf("exit status = %d, want 1", status)
	}
	if !strings.Contains(slow.String(), "not a directory") {
		t.Errorf("the log does not say that the directory is no directory:\n%s", slow)
	}
}

// slowSink takes longer for a line than the normal wait for the log.
type slowSink struct{ logs }

func (s *slowSink) Write(line []byte) (int, error) {
	<-time.After(30 * time.Millisecond)
	return s.logs.Write(line)
}
