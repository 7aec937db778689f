package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

// chosen is what an operator chose, on free ports of the loopback and in a
// directory of its own where args say nothing else.
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

// instance is a Daemon that serves.
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
			i.Errorf("close: %v", err)
		}
	})
}

// logs may be read while they are written.
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

// call asks the application API, and gives status 0 when nobody answers.
func (i *instance) call(method, path, body string) (int, string) {
	i.Helper()
	url := "http://" + i.Config().ApplicationAdvertisedAddress + path
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
			i.Fatalf("%s: it never came to that", what)
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
		i.Fatalf("put %s: %d %s", id, status, answer)
	}
}

// nodes are the ids in the registry, as the cluster has them.
func (i *instance) nodes() []string {
	i.Helper()
	status, answer := i.call(http.MethodGet, "/nodes", "")
	var nodes map[string]json.RawMessage
	if err := json.Unmarshal([]byte(answer), &nodes); status != http.StatusOK || err != nil {
		i.Fatalf("list: %d %s %v", status, answer, err)
	}
	var ids []string
	for id := range nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func TestAnInstanceKeepsWhatItWasTold(t *testing.T) {
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
				t.Errorf("after a restart it has %q", got)
			}
			if !strings.Contains(second.logs.String(), "bootstrapping changes nothing") {
				t.Error("its log does not say that bootstrapping changed nothing")
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
			others[0].put("a") // by a redirect
			began := time.Now()
			leader.stop()
			others[1].await("a write", func() bool {
				status, _ := others[1].call(http.MethodPut, "/nodes/b", `{"id":"b","address":"b.example:11211"}`)
				return status == http.StatusCreated || status == http.StatusOK // tried before, with no answer
			})
			// Without a hand-over it takes the heartbeat timeout, at least, since the last
			// heartbeat, of which there are five or more in that time.
			if gap := time.Since(began); gap > timeout*3/4 {
				t.Errorf("after a graceful stop of the leader a write took %v: it was not handed over", gap)
			}
			if got := others[0].nodes(); !slices.Equal(got, []string{"a", "b"}) {
				t.Errorf("they have %q", got)
			}
			if !strings.Contains(leader.logs.String(), "leadership was handed over") {
				t.Error("its log does not say that it handed over")
			}
		})
	}
}

func TestAnInstanceWithoutAClusterWaits(t *testing.T) {
	i := start(t)
	if status, answer := i.call(http.MethodGet, "/readyz", ""); status != http.StatusServiceUnavailable || !strings.Contains(answer, "waits to be added") {
		t.Errorf("readyz: %d %s", status, answer)
	}
	if status, answer := i.call(http.MethodGet, "/livez", ""); status != http.StatusOK {
		t.Errorf("livez: %d %s", status, answer)
	}
	if !strings.Contains(i.logs.String(), "waits to be added") {
		t.Error("its log does not say so")
	}
}

// It leads itself, and is ready; but who is added does not find it when it leads no more.
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
		t.Errorf("%q is not said by who has moved alone", words)
	}
	joins := start(t, "--raft_dir="+c.RaftDir, "--application_bind_address="+c.ApplicationBindAddress, "--join="+c.ApplicationBindAddress)
	joins.await("moved", func() bool { return strings.Contains(joins.logs.String(), "joined the raft cluster") })
	if strings.Contains(joins.logs.String(), words) {
		t.Error("who asks to be moved is told to ask")
	}
}

func TestWhatTheLogSays(t *testing.T) {
	i := start(t, "--storage_backend=memory", "--bootstrap_raft_cluster", "--log_format=json")
	i.awaitReady()
	i.stop()
	var first map[string]any
	for line := range strings.Lines(i.logs.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if record["raft_id"] != "n1" || record["level"] == "" || record["msg"] == "" {
			t.Errorf("a line without an id, a level or a message: %s", line)
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
			t.Errorf("at start %s is %v, want %v", key, first[key], want)
		}
	}
	for _, words := range []string{"forgets everything", "no --raft_secret_file", `"component":"raft"`, `"component":"fx"`} {
		if !strings.Contains(i.logs.String(), words) {
			t.Errorf("nothing in the log says %s", words)
		}
	}
}

func TestMetrics(t *testing.T) {
	// bolt, which has some of its own.
	i := start(t, "--bootstrap_raft_cluster", "--storage_backend=bolt")
	start(t) // two instances in one process share what is global
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
			t.Errorf("there is no %s", metric)
		}
	}
	checkDocumented(t, page)
}

// checkDocumented fails the test unless docs/operations.md tells of every metric
// of our own in page. The second of two names that begin alike may be given by
// its end there.
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
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
	}
}
