package offline_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backends are the durable backends.
var backends = []string{"bolt", "badger", "wal"}

// program runs a verb of the program in this process.
func program(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, complaints bytes.Buffer
	status = daemon.Run(t.Context(), args, nil, &out, &complaints)
	return status, out.String(), complaints.String()
}

// mustRun fails the test unless the program ends with status 0 and without warnings.
func mustRun(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	status, stdout, stderr := program(t, args...)
	if status != 0 || stderr != "" {
		t.Fatalf("%q: status = %d, want 0 and nothing on stderr, stdout:\n%s\nstderr:\n%s", args, status, stdout, stderr)
	}
	return stdout
}

// mustFail fails the test unless the program ends with this status and says these words on
// stderr.
func mustFail(t *testing.T, want int, words []string, args ...string) {
	t.Helper()
	status, stdout, stderr := program(t, args...)
	if status != want {
		t.Errorf("%q: status = %d, want %d, stdout:\n%s\nstderr:\n%s", args, status, want, stdout, stderr)
	}
	for _, word := range words {
		if !strings.Contains(stderr, word) {
			t.Errorf("stderr of %q does not say %q:\n%s", args, word, stderr)
		}
	}
}

// instance is an instance that runs in this process.
type instance struct {
	t      *testing.T
	daemon *daemon.Daemon
	closed bool
}

// start starts an instance that makes many snapshots, with args. Its timeouts are long, as no
// test here expects an election among several instances.
func start(t *testing.T, dir, id, backend string, args ...string) *instance {
	t.Helper()
	args = append([]string{"--raft_id=" + id, "--raft_dir=" + dir, "--storage_backend=" + backend, "--raft_bind_address=127.0.0.1:0",
		"--application_bind_address=127.0.0.1:0", "--raft_heartbeat_timeout=1s", "--raft_election_timeout=1s", "--raft_snapshot_threshold=30", "--raft_snapshot_interval=20ms", "--raft_trailing_logs=40"}, args...)
	chosen, err := config.Load(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := daemon.New(chosen, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := &instance{t: t, daemon: d}
	t.Cleanup(i.stop)
	return i
}

func (i *instance) stop() {
	if i.closed {
		return
	}
	i.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := i.daemon.Close(ctx); err != nil {
		i.t.Errorf("stop %s: %v", i.daemon.Config().RaftID, err)
	}
}

// raftAddress returns the address at which other instances reach it.
func (i *instance) raftAddress() string { return i.daemon.Config().RaftAdvertisedAddress }

func (i *instance) application() string { return i.daemon.Config().ApplicationAdvertisedAddress }

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

func (i *instance) call(method, path, body string) (status int, header http.Header, answer string) {
	i.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, "http://"+i.application()+path, strings.NewReader(body))
	if err != nil {
		i.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err.Error()
	}
	return response.StatusCode, response.Header, string(content)
}

func (i *instance) await(path string) {
	i.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		status, _, answer := i.call(http.MethodGet, path, "")
		if status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("%s of %s: answer = %d %s, want 200", path, i.daemon.Config().RaftID, status, answer)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (i *instance) put(from, to int) {
	i.t.Helper()
	for n := from; n <= to; n++ {
		body := fmt.Sprintf(`{"address":"node-%d.example:11211","labels":{"n":"%d"}}`, n, n)
		if status, _, answer := i.call(http.MethodPut, fmt.Sprintf("/nodes/node-%d", n), body); status != http.StatusCreated {
			i.t.Fatalf("put node-%d: answer = %d %s, want 201", n, status, answer)
		}
	}
}

// registry is the registry as clients see it.
type registry struct {
	revision string
	nodes    map[string]json.RawMessage
}

func (i *instance) registry() (r registry) {
	i.t.Helper()
	status, header, answer := i.call(http.MethodGet, "/nodes", "")
	if err := json.Unmarshal([]byte(answer), &r.nodes); status != http.StatusOK || err != nil {
		i.t.Fatalf("list: answer = %d %s, %v, want 200 with nodes", status, answer, err)
	}
	r.revision = header.Get("Nodesmetadata-Revision")
	return r
}

func (r registry) mustBe(t *testing.T, want registry) {
	t.Helper()
	equal := func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }
	if r.revision != want.revision || !maps.EqualFunc(r.nodes, want.nodes, equal) {
		t.Errorf("registry at revision %s with %d nodes, want revision %s with %d\n%s\n%s", r.revision, len(r.nodes), want.revision, len(want.nodes),
			slices.Sorted(maps.Keys(r.nodes)), slices.Sorted(maps.Keys(want.nodes)))
	}
}

// livedIn returns the directory of a stopped lone instance with snapshots and a log, its raft
// address, and its registry.
func livedIn(t *testing.T, backend string) (dir, address string, has registry) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	i := start(t, dir, "n1", backend, "--bootstrap_raft_cluster")
	i.await("/readyz")
	i.put(1, 50)
	i.awaitSnapshots(1)
	i.put(51, 100)
	i.awaitSnapshots(2)
	has = i.registry()
	i.stop()
	return dir, i.raftAddress(), has
}

func (i *instance) awaitSnapshots(count int) {
	i.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		found, _ := filepath.Glob(filepath.Join(i.daemon.Config().RaftDir, "snapshots", "*[0-9]", "state.bin"))
		if len(found) >= count {
			return
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("snapshots = %q, want more in time", found)
		}
	}
}

// crashed returns a directory of a lone instance as a crash leaves it.
func crashed(t *testing.T, backend string) (dir string) {
	t.Helper()
	live := t.TempDir()
	i := start(t, live, "n1", backend, "--bootstrap_raft_cluster", "--raft_snapshot_threshold=1000000")
	i.await("/readyz")
	i.put(1, 100)
	dir = logstoretest.Image(t, live)
	i.stop()
	return dir
}

func flip(t *testing.T, path string, find func(raw []byte) int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := find(raw)
	if at < 0 {
		t.Fatalf("the place to damage was not found in %s", path)
	}
	raw[at] ^= 0x10
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func middle(raw []byte) int { return len(raw) / 2 }

// snapshotStates returns the state files of the two snapshots, the older one first.
func snapshotStates(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if err != nil || len(paths) != 2 {
		t.Fatalf("snapshots = %v, %v, want two", paths, err)
	}
	index := func(path string) (index int) {
		var term int
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(path)), "%d-%d-", &term, &index); err != nil {
			t.Fatal(err)
		}
		return index
	}
	slices.SortFunc(paths, func(a, b string) int { return index(a) - index(b) })
	return paths
}
