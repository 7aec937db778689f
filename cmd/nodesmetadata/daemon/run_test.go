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
	"testing/synctest"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func TestTheGraphIsCompleteForEveryBackend(t *testing.T) {
	if offered := slices.Sorted(slices.Values(config.Backends)); !slices.Equal(daemon.Backends(), offered) {
		t.Errorf("backends of the graph = %q, want those of the config, %q", daemon.Backends(), offered)
	}
	for _, backend := range config.Backends {
		t.Run(backend, func(t *testing.T) {
			if err := daemon.Validate(chosen(t, "--storage_backend="+backend)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestArgumentsThatStartNoInstance(t *testing.T) {
	tests := map[string]struct {
		args   []string
		status int
		stdout string // a part of it
		stderr string
	}{
		"help":                    {args: []string{"--help"}, stdout: "--raft_id id"},
		"help beside other flags": {args: []string{"--raft_id=a", "-h"}, stdout: "Usage:"},
		"version":                 {args: []string{"--version"}, stdout: "nodesmetadata " + daemon.Version()},
		"version as a verb":       {args: []string{"version"}, stdout: "nodesmetadata " + daemon.Version()},
		"version with arguments":  {args: []string{"version", "x", "--raft_id=a"}, status: 2, stderr: "nodesmetadata: unexpected argument: \"x\"\nnodesmetadata: unexpected argument: \"--raft_id=a\"\n"},
		"version with -h":         {args: []string{"version", "-h"}, stdout: "Usage:"},
		"version with help":       {args: []string{"version", "--help"}, stdout: "Usage:"},
		"an unknown verb":         {args: []string{"serve"}, status: 2, stderr: "nodesmetadata: unexpected argument: \"serve\"\n"},
		"several faults": {args: []string{"--nope", "--log_level=loud"}, status: 2,
			stderr: "nodesmetadata: unknown flag: --nope\nnodesmetadata: --log_level: \"loud\" is none of"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			var stdout, stderr bytes.Buffer
			status := daemon.Run(t.Context(), test.args, []string{"NODESMETADATA_RAFT_DIR=" + dir}, &stdout, &stderr)
			if status != test.status {
				t.Errorf("exit status = %d, want %d", status, test.status)
			}
			if !strings.Contains(stdout.String(), test.stdout) || (test.stdout == "") != (stdout.Len() == 0) {
				t.Errorf("stdout = %q, want %q in it", &stdout, test.stdout)
			}
			if !strings.HasPrefix(stderr.String(), test.stderr) || (test.stderr == "") != (stderr.Len() == 0) {
				t.Errorf("stderr = %q, want %q at its beginning", &stderr, test.stderr)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the directory was created: %v", err)
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
		"the raft port is taken":        {[]string{"--raft_bind_address=" + taken.Addr().String()}, "address already in use"},
		"the application port is taken": {[]string{"--application_bind_address=" + taken.Addr().String()}, "address already in use"},
		"the directory can't be made":   {[]string{"--raft_dir=/dev/null/data"}, "not a directory"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"--raft_id=n1", "--raft_dir=" + dir, "--raft_bind_address=127.0.0.1:0",
				"--application_bind_address=127.0.0.1:0", "--bootstrap_raft_cluster"}, test.args...)
			var stderr bytes.Buffer
			if status := daemon.Run(t.Context(), args, nil, io.Discard, &stderr); status != 1 {
				t.Errorf("exit status = %d, want 1", status)
			}
			if got := stderr.String(); !strings.Contains(got, test.says) || strings.Count(got, test.says) != 1 {
				t.Errorf("stderr does not say once %q:\n%s", test.says, got)
			}
			// Everything that had been acquired was released, so an instance can start.
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
		t.Errorf("Open = %v, want that the directory is in use", err)
	}
}

// The default backend may have changed since the directory was written.
func TestWithoutABackendADirectoryGoesOnWithItsOwn(t *testing.T) {
	for _, backend := range []string{"bolt", "badger", "wal"} {
		t.Run(backend, func(t *testing.T) {
			dir := "--raft_dir=" + t.TempDir()
			first := start(t, dir, "--storage_backend="+backend, "--bootstrap_raft_cluster")
			first.awaitReady()
			first.put("a")
			first.stop()
			if strings.Contains(first.logs.String(), "the instance goes on with it") {
				t.Error("with a backend that is given, the log says that none is given")
			}
			second := start(t, dir)
			second.awaitReady()
			if got := second.nodes(); !slices.Equal(got, []string{"a"}) || second.Config().StorageBackend != backend {
				t.Errorf("backend = %s, nodes = %q, want %s and a", second.Config().StorageBackend, got, backend)
			}
			told := strings.Contains(second.logs.String(), "the instance goes on with it")
			if told != (backend != config.DefaultBackend) {
				t.Errorf("the log says that the backend is not the default = %v, want %v", told, !told)
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
		"another durable backend":        {"bolt", "badger", convert + " --from bolt --to badger ", "empty"},
		"a durable backend, then memory": {"bolt", "memory", `with an empty directory, to join the cluster anew: "memory" keeps nothing on disk`, convert},
		"memory, then a durable backend": {"memory", "bolt", `with an empty directory, to join the cluster anew: "memory" keeps nothing on disk`, convert},
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
				t.Fatal("New with another backend = nil, want an error")
			}
			for _, word := range []string{test.wrote, test.asked, test.says} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error = %v, want it to mention %q", err, word)
				}
			}
			if strings.Contains(err.Error(), test.not) {
				t.Errorf("error = %v, want it not to mention %q", err, test.not)
			}
		})
	}
}

// Such a directory can't be converted either.
func TestADirectoryOfABackendThatThisBuildLacks(t *testing.T) {
	for name, given := range map[string][]string{"without a backend": nil, "with a backend": {"--storage_backend=bolt"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			start(t, "--raft_dir="+dir).stop()
			path := filepath.Join(dir, "instance.json")
			manifest, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			manifest = bytes.ReplaceAll(manifest, []byte(`"wal"`), []byte(`"future"`))
			if err := os.WriteFile(path, manifest, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = daemon.New(chosen(t, append(given, "--raft_dir="+dir)...), io.Discard)
			if err == nil {
				t.Fatal("New = nil, want an error")
			}
			for _, word := range []string{dir, "written by another storage backend, which this build lacks", `"future" is none of bolt, `, "with a build that has that one"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("error = %v, want it to mention %q", err, word)
				}
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
		t.Errorf("exit status = %d, want 1", status)
	}
}

// Whether the failure or the end of the context is seen first is random.
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
			t.Errorf("exit status = %d, want 1 and the reason once in the log:\n%s", status, &logs)
		}
	}
}

func TestASignalDuringTheStartStopsIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	args := []string{"--raft_id=n1", "--raft_dir=" + t.TempDir(), "--raft_bind_address=127.0.0.1:0", "--application_bind_address=127.0.0.1:0"}
	if status := daemon.Run(ctx, args, nil, io.Discard, &stderr); status != 0 {
		t.Errorf("exit status = %d, want 0:\n%s", status, &stderr)
	}
}

// Requests in flight are finished, so they must have at least the time of a request.
func TestRequestsInFlightHaveTheirTimeWhenAnInstanceStops(t *testing.T) {
	whole := chosen(t).ShutdownTimeout
	if got := daemon.TimeForRequests(whole); got < httpapi.DefaultRequestTimeout || got > whole*3/4 {
		t.Errorf("of %v for the stop, requests have %v, want at least %v and at most three quarters", whole, got, httpapi.DefaultRequestTimeout)
	}
}

// What stops at once needs no bound, and after the directory there is nothing to do.
func TestNoStepOfTheStopTakesTheTimeOfTheOthers(t *testing.T) {
	if got, want := daemon.StepsWithAllTheTime(), []string{"directory", "raft port", "peer connections"}; !slices.Equal(got, want) {
		t.Errorf("steps that may take all the time = %q, want %q", got, want)
	}
}

func TestAStepOfTheStopHasItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bounded, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		for share, want := range map[float64]time.Duration{0: 8 * time.Second, 0.25: 2 * time.Second, 0.75: 6 * time.Second} {
			if got, _ := daemon.TimeToClose(bounded, share); got != want {
				t.Errorf("with a share of %v, time to close = %v, want %v", share, got, want)
			}
			if got, bounded := daemon.TimeToClose(t.Context(), share); bounded {
				t.Errorf("with a share of %v of unbounded time, time to close = %v, want no bound", share, got)
			}
		}
	})
}
