package consensus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// notClosing is the state of an instance that is not being closed.
func notClosing() bool { return false }

// loggedBy returns the records that log writes through raft's logger, with ours at this
// level.
func loggedBy(t *testing.T, level slog.Level, log func(hclog.Logger)) []map[string]any {
	t.Helper()
	var b bytes.Buffer
	log(raftLogger(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: level})), notClosing))
	var records []map[string]any
	for decoder := json.NewDecoder(&b); ; {
		var record map[string]any
		if err := decoder.Decode(&record); errors.Is(err, io.EOF) {
			return records
		} else if err != nil {
			t.Fatal(err)
		}
		delete(record, slog.TimeKey)
		records = append(records, record)
	}
}

func TestRaftLogsAtTheConfiguredLevel(t *testing.T) {
	all := []string{"DEBUG", "DEBUG", "INFO", "WARN", "ERROR"}
	for level, want := range map[slog.Level][]string{
		slog.LevelDebug:     all,
		slog.LevelInfo:      all[2:],
		slog.LevelWarn:      all[3:],
		slog.LevelError:     all[4:],
		slog.LevelError + 1: nil,
	} {
		t.Run(level.String(), func(t *testing.T) {
			records := loggedBy(t, level, func(l hclog.Logger) {
				l.Trace("m")
				l.Debug("m")
				l.Info("m")
				l.Warn("m")
				l.Error("m")
			})
			var got []string
			for _, record := range records {
				got = append(got, record[slog.LevelKey].(string))
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("levels logged = %v, want %v", got, want)
			}
		})
	}
}

func TestRaftsLogLinesKeepTheirArguments(t *testing.T) {
	tests := map[string]struct {
		log  func(hclog.Logger)
		want map[string]any
	}{
		"values": {
			func(l hclog.Logger) { l.Info("m", "peer", "b", "term", 7, "error", errDisk) },
			map[string]any{"peer": "b", "term": 7.0, "error": errDisk.Error()}},
		"values that are formatted when they are logged": {
			func(l hclog.Logger) { l.Info("m", "servers", hclog.Fmt("%+v", []int{1, 2})) },
			map[string]any{"servers": "[1 2]"}},
		"a format without arguments": {
			func(l hclog.Logger) { l.Info("m", "text", hclog.Fmt("100%%")) },
			map[string]any{"text": "100%"}},
		"values that a logger carries": {
			func(l hclog.Logger) { l.With("peer", hclog.Fmt("%d", 1)).Info("m", "term", 7) },
			map[string]any{"peer": "1", "term": 7.0}},
		"raft's structures, as their String gives them": {
			func(l hclog.Logger) { l.Info("m", "peer", raft.Server{ID: "b", Address: "b:1"}) },
			map[string]any{"peer": "{Voter b b:1}"}},
		"a value without a name": {
			func(l hclog.Logger) { l.Info("m", "lonely") },
			map[string]any{"!BADKEY": "lonely"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.want[slog.LevelKey], test.want[slog.MessageKey], test.want["component"] = "INFO", "m", "raft"
			mustEqual(t, "the record", loggedBy(t, slog.LevelDebug, test.log), []map[string]any{test.want})
		})
	}
}

// The end of a connection that this instance closes itself is no error. The end by another
// instance may be one, and a closed listener is.
func TestTheEndOfOwnConnectionsIsNoError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	listener.Close()
	_, reading := conn.Read(make([]byte, 1))
	_, writing := conn.Write([]byte("x"))
	_, accepting := listener.Accept()
	tests := map[string]struct {
		err  error
		want string
	}{
		"a read of a closed connection":          {reading, "DEBUG"},
		"a write to a closed connection":         {writing, "DEBUG"},
		"a wrapped read of a closed connection":  {fmt.Errorf("frame: %w", reading), "DEBUG"},
		"an accept from a closed listener":       {accepting, "ERROR"},
		"a connection that the other side reset": {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, "ERROR"},
		"anything else":                          {errDisk, "ERROR"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			records := loggedBy(t, slog.LevelDebug, func(l hclog.Logger) { l.Error("failed", "peer", "b", "error", test.err) })
			if len(records) != 1 || records[0][slog.LevelKey] != test.want {
				t.Errorf("records for %v = %v, want level %s", test.err, records, test.want)
			}
		})
	}
}

// formatCounter counts how often it is formatted.
type formatCounter struct{ times *int }

func (c formatCounter) String() string { *c.times++; return "made" }

func TestDisabledLogLinesAreNotFormatted(t *testing.T) {
	var times int
	records := loggedBy(t, slog.LevelWarn, func(l hclog.Logger) {
		l.Trace("m", "costly", formatCounter{&times}, "format", hclog.Fmt("%s", formatCounter{&times}))
		l.Debug("m", "costly", formatCounter{&times}, "format", hclog.Fmt("%s", formatCounter{&times}))
		l.Info("m", "costly", formatCounter{&times}, "format", hclog.Fmt("%s", formatCounter{&times}))
	})
	if times != 0 || len(records) != 0 {
		t.Errorf("records = %d, values formatted = %d times, want neither at a disabled level", len(records), times)
	}
	records = loggedBy(t, slog.LevelInfo, func(l hclog.Logger) {
		l.Info("m", "format", hclog.Fmt("%s", formatCounter{&times}))
	})
	if times == 0 || len(records) != 1 {
		t.Error("an enabled line was not logged, or its values not formatted")
	}
	if l := raftLogger(slog.New(slog.DiscardHandler), notClosing); l.IsError() {
		t.Error("IsError = true for a logger that discards everything, want false")
	}
}

// logLines collects log output, and may be read while it is written.
type logLines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// since returns the lines after the first skip bytes.
func (l *logLines) since(skip int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()[skip:]), "\n")
}

func (l *logLines) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Len()
}

// Raft reports the end of its own connections as errors.
func TestRaftRaisesNoAlarmWhileItIsClosed(t *testing.T) {
	logs := map[string]*logLines{}
	cluster := startCluster(t, 3, func(config *instanceConfig) {
		logs[config.id] = &logLines{}
		config.logger = slog.New(slog.NewTextHandler(logs[config.id], &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	register(t, cluster[0], "a")
	for _, i := range []*instance{cluster[1], cluster[0]} {
		log := logs[i.config.ID]
		before := log.len()
		i.stop(t)
		for _, line := range log.since(before) {
			if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
				t.Errorf("log line of %s while it is closed = %s, want no warning or error", i.config.ID, line)
			}
		}
	}
}
