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

// sink takes what is written to it when it may.
type sink struct {
	logs
	open chan struct{} // closed when it takes lines
	err  error         // why it refuses them
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
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

// isNote says whether r tells that so many lines are missing.
func (r record) isNote(missing int) bool {
	return r.Level == "WARN" && r.RaftID == "n1" && r.Lines == missing && strings.Contains(r.Msg, "are lost here")
}

// withLogWriter tests a LogWriter over a sink, in a time that passes only while
// everybody waits.
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

func TestALineIsOutAtOnceWhenItIsTaken(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		for n := range 100 {
			out.Info("said", "n", n)
			if got := s.records(t); len(got) != n+1 || got[n].N != n {
				t.Fatalf("after %d lines there are %v", n+1, got)
			}
		}
	})
}

func TestALogThatIsNotTakenHoldsNobodyUp(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		s.open = make(chan struct{})
		const said = 20000 // more than is kept
		began := time.Now()
		for n := range said {
			out.Info("said", "n", n)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("they took %v", took)
		}
		out.Flush(time.Second)
		if took := time.Since(began); took < time.Second || took > 1010*time.Millisecond {
			t.Errorf("the last second took %v", took)
		}
		lost := int(out.Lost())
		if lost == 0 || lost == said {
			t.Fatalf("of %d lines %d are lost", said, lost)
		}

		close(s.open)
		out.Flush(time.Second)
		out.Info("said", "n", said)
		got := s.records(t)
		kept := said - lost
		if len(got) != kept+2 {
			t.Fatalf("of %d lines %d are lost, and there are %d", said, lost, len(got))
		}
		for n, r := range got[:kept] {
			if r.N != n {
				t.Fatalf("line %d is %+v", n, r)
			}
		}
		if !got[kept].isNote(lost) || got[kept+1].N != said {
			t.Errorf("after what was kept there is %+v", got[kept:])
		}
	})
}

// A sink that takes a line now and then must not be owed more than one that takes none.
func TestWhatIsPendingIsBoundedHoweverSlowlyItIsTaken(t *testing.T) {
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
			s.open <- struct{}{} // for one line
			synctest.Wait()
		}
		taken := len(s.String())
		fill()
		close(s.open)
		out.Flush(time.Second)
		if pending := len(s.String()) - taken; pending > daemon.MostPending+1000 {
			t.Errorf("%d bytes were pending, more than %d and a few lines", pending, daemon.MostPending)
		}
		next := 0
		for _, r := range s.records(t) {
			switch {
			case r.isNote(r.Lines):
				next += r.Lines
			case r.N != next:
				t.Fatalf("where line %d is to be there is %+v", next, r)
			default:
				next++
			}
		}
		if next != said {
			t.Errorf("of %d lines %d are there, or known to be lost", said, next)
		}
	})
}

// A disk that is full takes lines again when there is room.
func TestALogThatIsRefusedGoesOn(t *testing.T) {
	withLogWriter(t, nil, func(t *testing.T, out daemon.LogWriter, s *sink) {
		out.Info("said", "n", 1)
		s.err = errors.New("no room")
		out.Info("said", "n", 2)
		out.Info("said", "n", 3)
		s.err = nil
		out.Info("said", "n", 4)
		got := s.records(t)
		if len(got) != 3 || got[0].N != 1 || !got[1].isNote(2) || got[2].N != 4 || out.Lost() != 2 {
			t.Errorf("%d lines are lost, and there are %+v", out.Lost(), got)
		}
	})
}

func TestWhoWantsErrorsOnlyIsNotWarned(t *testing.T) {
	withLogWriter(t, []string{"--log_level=error"}, func(t *testing.T, out daemon.LogWriter, s *sink) {
		s.err = errors.New("no room")
		out.Error("said", "n", 1)
		s.err = nil
		out.Error("said", "n", 2)
		if got := s.records(t); len(got) != 1 || got[0].N != 2 {
			t.Errorf("there are %+v", got)
		}
	})
}

// What an instance says last is why it ended.
func TestTheLastWordsAreWaitedFor(t *testing.T) {
	slow := &slowSink{}
	args := []string{"--raft_id=n1", "--raft_dir=/dev/null/data", "--raft_bind_address=127.0.0.1:0", "--application_bind_address=127.0.0.1:0"}
	if status := daemon.Run(t.Context(), args, nil, io.Discard, slow); status != 1 {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(slow.String(), "not a directory") {
		t.Errorf("it says only:\n%s", slow)
	}
}

// slowSink takes longer for a line than is waited for.
type slowSink struct{ logs }

func (s *slowSink) Write(line []byte) (int, error) {
	<-time.After(30 * time.Millisecond)
	return s.logs.Write(line)
}
