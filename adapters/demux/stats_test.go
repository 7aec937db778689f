package demux_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
)

// journal is what a Logger wrote.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) lines(with ...string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		if contains(line, with) {
			found = append(found, line)
		}
	}
	return found
}

func contains(line string, all []string) bool {
	for _, part := range all {
		if !strings.Contains(line, part) {
			return false
		}
	}
	return true
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestStrangersCannotFillTheLog(t *testing.T) {
	const strangers = 30
	var log journal
	port, _ := open(t, demux.Config{Logger: log.logger()}, lanes{'f': {Handshake: greeting("hello")}})
	began := time.Now()
	for range strangers {
		client := dial(t, port.Addr().String(), 'f')
		send(t, client, "wrong")
		expectClosed(t, client)
	}
	_ = port.Close() // every line is written
	most := 1 + int(time.Since(began)/time.Second)
	if got := len(log.lines("level=WARN", "handshake_failed")); got < 1 || got > most {
		t.Errorf("warnings = %d, want 1 to %d", got, most)
	}
	if got := log.lines("handshake_failed", "refused", "remote=127.0.0.1:"); len(got) != strangers {
		t.Errorf("log lines = %d, want %d", len(got), strangers)
	}
}

func TestEachKindOfRejectionIsLoggedAtItsLevel(t *testing.T) {
	var log journal
	port, _ := open(t, demux.Config{Logger: log.logger()}, lanes{
		'p': {Handshake: func(net.Conn) (net.Conn, error) { panic("a mistake") }},
		'f': {Handshake: func(net.Conn) (net.Conn, error) { return nil, io.ErrNoProgress }},
		'b': {Backlog: 1},
	})
	for _, first := range []byte{'p', 'f', 'z'} {
		expectClosed(t, dial(t, port.Addr().String(), first))
	}
	dial(t, port.Addr().String(), 'b')
	awaitQueued(t, port, 'b', 1)
	expectClosed(t, dial(t, port.Addr().String(), 'b'))
	_ = port.Close()
	for _, want := range [][]string{
		{"level=ERROR", "reason=handshake_panic", "a mistake", "stats_test.go"}, // where it came from
		{"level=WARN", "reason=handshake_failed", io.ErrNoProgress.Error()},
		{"level=DEBUG", "reason=unknown_lane", "0x7a"},
		{"level=WARN", "reason=backlog_full"},
		{"level=DEBUG", "reason=shutdown"},
	} {
		if got := log.lines(want...); len(got) != 1 {
			t.Errorf("log lines with %q = %d, want 1", want, len(got))
		}
	}
}

func TestEveryReasonHasANameAndACount(t *testing.T) {
	port, _ := open(t, demux.Config{}, nil)
	seen := make(map[string]bool)
	rejected := port.Stats().Rejected
	for reason := demux.Silent; reason <= demux.Shutdown; reason++ {
		name := reason.String()
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" || seen[name] {
			t.Errorf("name of reason %d = %q, want a new one of lower case letters", uint8(reason), name)
		}
		seen[name] = true
		if _, ok := rejected[reason]; !ok {
			t.Errorf("reason %v is not counted", reason)
		}
	}
	if len(rejected) != len(seen) {
		t.Errorf("reasons counted = %d, want %d", len(rejected), len(seen))
	}
	if got := demux.Reason(200).String(); got != "reason_200" {
		t.Errorf("name of an unknown reason = %q, want reason_200", got)
	}
}

func TestStatsMayBeReadWhileConnectionsCome(t *testing.T) {
	port, lane := open(t, demux.Config{}, lanes{'a': {MaxOpen: 3, Backlog: 2}})
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if stats := port.Stats(); stats.Lanes['a'].Open > 3 || stats.Lanes['a'].Queued > 2 {
				t.Errorf("stats = %+v, want at most 3 open and 2 queued", stats)
			}
		}
	})
	for range 20 {
		dial(t, port.Addr().String(), 'a')
		accept(t, lane['a'])
	}
	close(stop)
	reading.Wait()
}
