package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

// chosen returns the config of an operator who set args. Unless args say otherwise, it has free
// loopback ports and a directory of its own.
func chosen(t *testing.T, args ...string) config.Config {
	t.Helper()
	args = append([]string{"--raft_id=n1", "--raft_dir=" + t.TempDir(), "--raft_bind_address=127.0.0.1:0",
		"--application_bind_address=127.0.0.1:0", "--log_level=debug"}, args...)
	c, err := config.Load(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// instance is a running Daemon.
type instance struct {
	*testing.T
	*daemon.Daemon
	logs *logs
	once sync.Once
}

func start(t *testing.T, args ...string) *instance {
	t.Helper()
	i := &instance{T: t, logs: &logs{}}
	var err error
	if i.Daemon, err = daemon.New(chosen(t, args...), i.logs); err != nil {
		t.Fatal(err)
	}
	if err := i.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.stop()
		if t.Failed() {
			t.Logf("logs of %s:\n%s", i.Config().RaftID, i.logs)
		}
	})
	return i
}

func (i *instance) stop() {
	i.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := i.Close(ctx); err != nil {
			i.Errorf("Close: %v", err)
		}
	})
}

// logs is a buffer for a log. Safe for concurrent use.
type logs struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(line)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

// call sends a request to the application API. The status is 0 if there is no answer.
func (i *instance) call(method, path, body string) (int, string) {
	i.Helper()
	url := "http://" + i.Config().ApplicationBindAddress + path
	request, err := http.NewRequestWithContext(i.Context(), method, url, strings.NewReader(body))
	if err != nil {
		i.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(answer)
}

func (i *instance) await(what string, condition func() bool) {
	i.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			i.Fatalf("timed out waiting for: %s", what)
		}
	}
}

func (i *instance) awaitReady() {
	i.Helper()
	i.await("ready", func() bool {
		status, _ := i.call(http.MethodGet, "/readyz", "")
		return status == http.StatusOK
	})
}

func (i *instance) put(id string) {
	i.Helper()
	body := fmt.Sprintf(`{"id":%q,"address":"%s.example:11211"}`, id, id)
	if status, answer := i.call(http.MethodPut, "/nodes/"+id, body); status != http.StatusCreated {
		i.Fatalf("put %s: answer = %d %s, want 201", id, status, answer)
	}
}

// nodes returns the ids of the registry, read from the leader.
func (i *instance) nodes() []string {
	i.Helper()
	status, answer := i.call(http.MethodGet, "/nodes", "")
	var nodes map[string]json.RawMessage
	if err := json.Unmarshal([]byte(answer), &nodes); status != http.StatusOK || err != nil {
		i.Fatalf("list: answer = %d %s, %v, want 200 with nodes", status, answer, err)
	}
	var ids []string
	for id := range nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func TestAnInstanceKeepsItsNodesOverARestart(t *testing.T) {
	for _, backend := range []string{"bolt", "badger", "wal"} {
		t.Run(backend, func(t *testing.T) {
			args := []string{"--raft_dir=" + t.TempDir(), "--storage_backend=" + backend, "--bootstrap_raft_cluster"}
			first := start(t, args...)
			first.awaitReady()
			first.put("a")
			first.stop()
			second := start(t, args...)
			second.awaitReady()
			if got := second.nodes(); !slices.Equal(got, []string{"a"}) {
				t.Errorf("nodes after a restart = %q, want a", got)
			}
			if !strings.Contains(second.logs.String(), "bootstrapping changes nothing") {
				t.Error("the log does not say that bootstrapping changed nothing")
			}
		})
	}
}

func TestInstancesJoinAndHandOver(t *testing.T) {
	const timeout = 4 * time.Second
	for family, bind := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(family, func(t *testing.T) {
			common := []string{"--raft_bind_address=" + bind, "--application_bind_address=" + bind, "--storage_backend=memory",
				"--raft_heartbeat_timeout=" + timeout.String(), "--raft_election_timeout=" + timeout.String()}
			leader := start(t, append(common, "--raft_id=n1", "--bootstrap_raft_cluster")...)
			join := "--join=" + leader.Config().ApplicationAdvertisedAddress
			others := []*instance{
				start(t, append(common, "--raft_id=n2", join)...),
				start(t, append(common, "--raft_id=n3", join)...),
			}
			for _, other := range others {
				other.awaitReady()
			}
			others[0].put("a") // redirected to the leader
			began := time.Now()
			leader.stop()
			others[1].await("a write", func() bool {
				status, _ := others[1].call(http.MethodPut, "/nodes/b", `{"id":"b","address":"b.example:11211"}`)
				return status == http.StatusCreated || status == http.StatusOK // 200 if an earlier try had succeeded without an answer
			})
			// Without a hand-over, an election begins only a heartbeat timeout after the
			// last heartbeat, and there are five or more heartbeats in that time.
			if gap := time.Since(began); gap > timeout*3/4 {
				t.Errorf("a write after a graceful stop of the leader took %v, too long for a hand-over", gap)
			}
			if got := others[0].nodes(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("nodes = %q, want a and b", got)
			}
			if !strings.Contains(leader.logs.String(), "leadership was handed over") {
				t.Error("the log does not say that leadership was handed over")
			}
		})
	}
}

func TestAnInstanceWithoutAClusterWaits(t *testing.T) {
	i := start(t)
	if status, answer := i.call(http.MethodGet, "/readyz", ""); status != http.StatusServiceUnavailable || !strings.Contains(answer, "waits to be added") {
		t.Errorf("readyz = %d %s, want 503 and that the instance waits to be added", status, answer)
	}
	if status, answer := i.call(http.MethodGet, "/livez", ""); status != http.StatusOK {
		t.Errorf("livez = %d %s, want 200", status, answer)
	}
	if !strings.Contains(i.logs.String(), "waits to be added") {
		t.Error("the log does not say that the instance waits to be added")
	}
}

// A lone instance that has moved leads itself and is ready. But an instance that is added later
// would not reach it at the old address once it no longer leads.
func TestAnInstanceThatIsAloneSaysThatItHasMoved(t *testing.T) {
	first := start(t, "--bootstrap_raft_cluster")
	first.awaitReady()
	first.stop()
	c := first.Config()
	const words = "has this instance at another raft address"
	same := start(t, "--raft_dir="+c.RaftDir, "--raft_bind_address="+c.RaftBindAddress)
	same.awaitReady()
	same.stop()
	moved := start(t, "--raft_dir="+c.RaftDir)
	moved.awaitReady()
	moved.stop()
	if strings.Contains(same.logs.String(), words) || !strings.Contains(moved.logs.String(), words) {
		t.Errorf("the log of the instance says %q at its old address, or does not say it after it has moved", words)
	}
	joins := start(t, "--raft_dir="+c.RaftDir, "--application_bind_address="+c.ApplicationBindAddress, "--join="+c.ApplicationBindAddress)
	joins.await("moved", func() bool { return strings.Contains(joins.logs.String(), "joined the raft cluster") })
	if strings.Contains(joins.logs.String(), words) {
		t.Error("an instance that asks to be moved still warns that it has moved")
	}
}

// Behind a translation of addresses, an instance does not listen where others look for it.
func TestAnInstanceTellsWhereOthersFindIt(t *testing.T) {
	advertised := []string{"--raft_advertised_address=raft.example:1", "--application_advertised_address=app.example:2"}
	i := start(t, append(advertised, "--bootstrap_raft_cluster")...)
	i.awaitReady()
	version := fmt.Sprintf(`"version":%q`, daemon.Version())
	for path, want := range map[string][]string{
		"/raft/metadata": {`"raftAddress":"raft.example:1"`, `"applicationAddress":"app.example:2"`, `"reachable":true`, version},
		"/version":       {version},
	} {
		_, answer := i.call(http.MethodGet, path, "")
		for _, part := range want {
			if !strings.Contains(answer, part) {
				t.Errorf("answer to GET %s = %s, want it to contain %s", path, answer, part)
			}
		}
	}
	joins := start(t, append(advertised, "--join=app.example:2,127.0.0.1:1")...)
	_, answer := joins.call(http.MethodGet, "/readyz", "")
	if !strings.Contains(answer, "it asks to be added") || strings.Contains(answer, "app.example") {
		t.Errorf("readyz = %s, want that the instance asks, and not itself", answer)
	}
	port, err := daemon.FreePort("127.0.0.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	member := start(t, "--raft_id=n2", "--raft_bind_address=127.0.0.1:"+port, "--raft_advertised_address=localhost:"+port,
		"--join="+i.Config().ApplicationBindAddress)
	member.await("joined as localhost", func() bool {
		_, answer := i.call(http.MethodGet, "/raft/metadata", "")
		return strings.Contains(answer, `"raftAddress":"localhost:`+port+`"`)
	})
}

func TestWhatTheLogSays(t *testing.T) {
	i := start(t, "--storage_backend=memory", "--bootstrap_raft_cluster", "--log_format=json")
	i.awaitReady()
	i.stop()
	var first map[string]any
	for line := range strings.Lines(i.logs.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if record["raft_id"] != "n1" || record["level"] == "" || record["msg"] == "" {
			t.Errorf("log line = %s, want an id, a level and a message", line)
		}
		if record["msg"] == "instance is starting" {
			first = record
		}
	}
	c := i.Config()
	for key, want := range map[string]any{
		"version": daemon.Version(), "raft_dir": c.RaftDir, "storage_backend": "memory",
		"raft_advertised_address": c.RaftAdvertisedAddress, "application_advertised_address": c.ApplicationAdvertisedAddress,
	} {
		if first[key] != want {
			t.Errorf("%s in the first line = %v, want %v", key, first[key], want)
		}
	}
	for _, words := range []string{"forgets everything", "no --raft_secret_file", `"component":"raft"`, `"component":"fx"`} {
		if !strings.Contains(i.logs.String(), words) {
			t.Errorf("the log does not contain %s", words)
		}
	}
}

func TestWarningsAboutTheSecretAreLogged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("sixteen bytes ok"), 0o600); err != nil {
		t.Fatal(err)
	}
	const none = "no --raft_secret_file"
	if i := start(t, "--raft_secret_file="+path); strings.Contains(i.logs.String(), none) || strings.Contains(i.logs.String(), path) {
		t.Errorf("the log warns of a secret that only the owner can read")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if i := start(t, "--raft_secret_file="+path); !strings.Contains(i.logs.String(), "can use "+path) {
		t.Errorf("the log does not warn of a secret that everybody can read")
	}
}

func TestMetrics(t *testing.T) {
	// The backend is bolt, because it has metrics of its own.
	i := start(t, "--bootstrap_raft_cluster", "--storage_backend=bolt")
	start(t) // a second instance, to find metrics that are global in the process
	i.awaitReady()
	i.put("a")
	i.call(http.MethodPut, "/nodes/leased", `{"address":"leased:1","ttlSeconds":60,"state":"draining"}`)
	i.call(http.MethodPost, "/nodes/leased/heartbeat", "")
	i.call(http.MethodGet, "/nodes", "")
	_, page := i.call(http.MethodGet, "/metrics", "")
	for _, metric := range []string{
		"nodesmetadata_lost_log_lines_total 0", "nodesmetadata_ready 1", "nodesmetadata_caught_up 1", "nodesmetadata_leader_contact_seconds ",
		"nodesmetadata_registry_revision 2", `nodesmetadata_registry_nodes{pool="default",state="active"} 1`,
		`nodesmetadata_registry_nodes{pool="default",state="draining"} 1`, `nodesmetadata_registry_nodes{pool="default",state="down"} 0`,
		"nodesmetadata_leases 1", "nodesmetadata_lease_renewals_total 1", "nodesmetadata_lease_expired_total 0",
		"nodesmetadata_lease_expiry_held_pools 0", "nodesmetadata_read_gate_readers_total ", "nodesmetadata_read_gate_rounds_total ",
		"nodesmetadata_read_index_readers_total 0", "nodesmetadata_read_index_rounds_total 0",
		"nodesmetadata_write_duration_seconds_count 2", "nodesmetadata_apply_duration_seconds_count ", "nodesmetadata_applied_entries_total ", "nodesmetadata_log_store_duration_seconds_count ",
		"nodesmetadata_raft_leader 1", "nodesmetadata_raft_term ", "nodesmetadata_raft_last_index ", "nodesmetadata_raft_commit_index ",
		"nodesmetadata_raft_applied_index ", fmt.Sprintf("nodesmetadata_log_format %d", consensus.Format), fmt.Sprintf("nodesmetadata_log_format_shared %d", consensus.Format), "nodesmetadata_log_store_bytes ", "nodesmetadata_snapshots_bytes ",
		"raft_apply ", "raft_boltdb_storeLogs_count ", "raft_state_leader ",
		"nodesmetadata_raft_port_accepted_total ", `nodesmetadata_raft_port_rejected_total{reason="silent"}`,
		`nodesmetadata_raft_port_handed_over_total{lane="raft"}`,
		"nodesmetadata_http_requests_total{", `nodesmetadata_build_info{version="`, "go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(page, "\n"+metric) {
			t.Errorf("the page lacks the metric %s", metric)
		}
	}
	checkDocumented(t, page)
}

// checkDocumented fails the test unless docs/operations.md mentions every metric of this
// program in page. Of two names with the same beginning, the second may be abbreviated to
// its end.
func checkDocumented(t *testing.T, page string) {
	t.Helper()
	document, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page) {
		name, isType := strings.CutPrefix(line, "# TYPE ")
		if name, _, _ = strings.Cut(name, " "); !isType || !strings.HasPrefix(name, "nodesmetadata_") {
			continue
		}
		told := strings.Contains(string(document), "`"+name)
		for at := range name {
			told = told || name[at] == '_' && strings.Contains(string(document), "`…"+name[at:])
		}
		if !told {
			t.Errorf("docs/operations.md does not mention %s", name)
		}
	}
}
