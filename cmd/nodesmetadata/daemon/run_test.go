package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func TestTheGraphIsCompleteForEveryBackend(t *testing.T) {
	if offered := slices.Sorted(slices.Values(config.Backends)); !slices.Equal(daemon.Backends(), offered) {
		t.Errorf("the graph knows %q, offered are %q", daemon.Backends(), offered)
	}
	for _, backend := range config.Backends {
		t.Run(backend, func(t *testing.T) {
			if err := daemon.Validate(chosen(t, "--storage_backend="+backend)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWordsInsteadOfAnInstance(t *testing.T) {
	tests := map[string]struct {
		args   []string
		status int
		stdout string // part of it
		stderr string
	}{
		"help":               {args: []string{"--help"}, stdout: "--raft_id id"},
		"help beside others": {args: []string{"--raft_id=a", "-h"}, stdout: "Usage:"},
		"version":            {args: []string{"--version"}, stdout: "nodesmetadata " + daemon.Version()},
		"version, as a verb": {args: []string{"version"}, stdout: "nodesmetadata " + daemon.Version()},
		"version, of what":   {args: []string{"version", "x", "--raft_id=a"}, status: 2, stderr: "nodesmetadata: unexpected argument: \"x\"\nnodesmetadata: unexpected argument: \"--raft_id=a\"\n"},
		"help for a version": {args: []string{"version", "--help"}, stdout: "Usage:"},
		"an unknown verb":    {args: []string{"serve"}, status: 2, stderr: "nodesmetadata: unexpected argument: \"serve\"\n"},
		"several faults": {args: []string{"--nope", "--log_level=loud"}, status: 2,
			stderr: "nodesmetadata: unknown flag: --nope\nnodesmetadata: --log_level: \"loud\" is none of"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			var stdout, stderr bytes.Buffer
			status := daemon.Run(t.Context(), test.args, []string{"NODESMETADATA_RAFT_DIR=" + dir}, &stdout, &stderr)
			if status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			if !strings.Contains(stdout.String(), test.stdout) || (test.stdout == "") != (stdout.Len() == 0) {
				t.Errorf("stdout %q", &stdout)
			}
			if !strings.HasPrefix(stderr.String(), test.stderr) || (test.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("stderr %q", &stderr)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory was touched: %v", err)
			}
		})
	}
}

func TestAnInstanceThatCannotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	tests := map[string]struct {
		args []string
		says string
	}{
		"its raft port is taken":        {[]string{"--raft_bind_address=" + taken.Addr().String()}, "address already in use"},
		"its application port is taken": {[]string{"--application_bind_address=" + taken.Addr().String()}, "address already in use"},
		"its directory can't be made":   {[]string{"--raft_dir=/dev/null/data"}, "not a directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"--raft_id=n1", "--raft_dir=" + dir, "--raft_bind_address=127.0.0.1:0",
				"--application_bind_address=127.0.0.1:0", "--bootstrap_raft_cluster"}, test.args...)
			var stderr bytes.Buffer
			if status := daemon.Run(t.Context(), args, nil, io.Discard, &stderr); status != 1 {
				t.Errorf("exit status %d", status)
			}
			if got := stderr.String(); !strings.Contains(got, test.says) || strings.Count(got, test.says) != 1 {
				t.Errorf("it does not say once that %s:\n%s", test.says, got)
			}
			// Whatever had been acquired was given back.
			i := start(t, "--raft_dir="+dir, "--bootstrap_raft_cluster")
			i.awaitReady()
		})
	}
}

func TestADirectoryIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	start(t, "--raft_dir="+dir)
	second, err := daemon.New(chosen(t, "--raft_dir="+dir), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "in use by another instance") {
		t.Errorf("got %v", err)
	}
}

// The default may be another one than when the directory was written.
func TestWithoutABackendADirectoryGoesOnWithItsOwn(t *testing.T) {
	for _, backend := range []string{"bolt", "badger", "wal"} {
		t.Run(backend, func(t *testing.T) {
			dir := "--raft_dir=" + t.TempDir()
			first := start(t, dir, "--storage_backend="+backend, "--bootstrap_raft_cluster")
			first.awaitReady()
			first.put("a")
			first.stop()
			second := start(t, dir)
			second.awaitReady()
			if got := second.nodes(); !slices.Equal(got, []string{"a"}) || second.Config().StorageBackend != backend {
				t.Errorf("with %s, it has %q", second.Config().StorageBackend, got)
			}
			told := strings.Contains(second.logs.String(), "the instance goes on with it")
			if told != (backend != config.DefaultBackend) {
				t.Errorf("that it is not the default is told: %v", told)
			}
		})
	}
}

func TestADirectoryRemembersItsBackend(t *testing.T) {
	const convert = "nodesmetadata storage migrate"
	tests := map[string]struct {
		wrote, asked string
		says, not    string
	}{
		"to convert it":                    {"bolt", "badger", convert + " --from bolt --to badger ", "empty"},
		"what would forget it":             {"bolt", "memory", `with an empty directory, to join the cluster anew: "memory" keeps nothing on disk`, convert},
		"what has forgotten all it was in": {"memory", "bolt", `with an empty directory, to join the cluster anew: "memory" keeps nothing on disk`, convert},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			start(t, "--raft_dir="+dir, "--storage_backend="+test.wrote).stop()
			second, err := daemon.New(chosen(t, "--raft_dir="+dir, "--storage_backend="+test.asked), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			err = second.Open(t.Context())
			if err == nil {
				t.Fatal("it was opened")
			}
			for _, word := range []string{test.wrote, test.asked, test.says} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("it does not name %q: %v", word, err)
				}
			}
			if strings.Contains(err.Error(), test.not) {
				t.Errorf("it names %q: %v", test.not, err)
			}
		})
	}
}

func TestAnInstanceThatCannotGoOnStopsWithAStatus(t *testing.T) {
	d, err := daemon.New(chosen(t, "--bootstrap_raft_cluster"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	d.Fail(errors.New("an entry of the log can't be read"))
	d.Fail(errors.New("and again"))
	if status := d.Serve(context.Background()); status != 1 {
		t.Errorf("exit status %d", status)
	}
}

// Which of the two is seen first is chance.
func TestAnInstanceThatCannotGoOnAsItStopsSaysSo(t *testing.T) {
	asked, cancel := context.WithCancel(t.Context())
	cancel()
	for range 8 {
		var logs bytes.Buffer
		d, err := daemon.New(chosen(t, "--storage_backend=memory"), &logs)
		if err != nil {
			t.Fatal(err)
		}
		d.Fail(errors.New("an entry of the log can't be read"))
		if status := d.Serve(asked); status != 1 || strings.Count(logs.String(), "an entry of the log can't be read") != 1 {
			t.Errorf("exit status %d:\n%s", status, &logs)
		}
	}
}

func TestASignalDuringTheStartStopsIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	args := []string{"--raft_id=n1", "--raft_dir=" + t.TempDir(), "--raft_bind_address=127.0.0.1:0", "--application_bind_address=127.0.0.1:0"}
	if status := daemon.Run(ctx, args, nil, io.Discard, &stderr); status != 0 {
		t.Errorf("exit status %d:\n%s", status, &stderr)
	}
}

// What is in flight is finished: it has at least the time in which it is decided.
func TestRequestsInFlightHaveTheirTimeWhenAnInstanceStops(t *testing.T) {
	whole := chosen(t).ShutdownTimeout
	if got := daemon.TimeForRequests(whole); got < httpapi.DefaultRequestTimeout || got > whole*3/4 {
		t.Errorf("of %v requests have %v, and are decided within %v", whole, got, httpapi.DefaultRequestTimeout)
	}
}
