package httpapi_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// sealed returns a backup of these lines, with a trailer that matches them.
func sealed(lines ...string) string {
	text := strings.Join(lines, "\n") + "\n"
	return fmt.Sprintf("%s{\"sha256\":\"%x\"}\n", text, sha256.Sum256([]byte(text)))
}

func backupHead(nodes int) string {
	return fmt.Sprintf(`{"format":"nodesmetadata-backup","version":1,"clusterID":"elsewhere","revision":17,"nodes":%d}`, nodes)
}

var emptyBackup = sealed(backupHead(0))

// registerEveryKind registers nodes that together have every attribute, and leaves a free slot.
func (s *service) registerEveryKind(t testing.TB) {
	t.Helper()
	weight, seconds := 0, 30
	pool, state, down := "sessions", domain.Draining, domain.DownOnExpiry
	s.register(t, domain.NodeSpec{ID: "gone", Address: "h:9"})
	s.register(t, domain.NodeSpec{ID: "plain", Address: "[2001:db8::1]:11211"})
	s.register(t, domain.NodeSpec{
		ID: "full", Address: "Cache.example:11211", Pool: &pool, Weight: &weight, Zone: "eu-1ä", State: &state,
		Labels: map[string]string{"rack": `"r7"`, "empty": "", "a:b": "<Grüße>"}, TTLSeconds: &seconds,
	})
	expired := s.register(t, domain.NodeSpec{ID: "expired", Address: "h:2", State: &state, TTLSeconds: &seconds, OnExpiry: &down})
	for _, cmd := range []domain.Command{
		domain.Expire{Nodes: []domain.NodeAt{{ID: "expired", Revision: expired.Revision}}},
		domain.Deregister{ID: "gone"}, // leaves a free slot
	} {
		if _, err := s.instance.Propose(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *service) nodes() []domain.CacheNode {
	state, _ := s.instance.State()
	var nodes []domain.CacheNode
	for n := range state.View.Nodes() {
		copied := *n
		copied.CreatedRevision, copied.Revision = 0, 0
		nodes = append(nodes, copied)
	}
	return nodes
}

func TestABackupContainsTheRegistry(t *testing.T) {
	s := start(t)
	s.registerEveryKind(t)
	got := s.do(t, "GET", "/raft/backup", "")
	goldenBackup(t, "backup-v1.golden", got.body)
	for name, want := range map[string]string{
		"Content-Type": "application/vnd.nodesmetadata.backup", "Etag": `"6"`, "Nodesmetadata-Revision": "6",
		"Content-Disposition": `attachment; filename="nodesmetadata-6.backup"`,
	} {
		if got.header.Get(name) != want {
			t.Errorf("%s = %q, want %q", name, got.header.Get(name), want)
		}
	}
	for i, text := range strings.Split(strings.TrimSuffix(got.body, "\n"), "\n") {
		schema := "BackupNode"
		switch i {
		case 0:
			schema = "BackupHead"
		case 4:
			schema = "BackupTrailer"
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		if err := describe(t).check("#/components/schemas/"+schema, value); err != nil {
			t.Errorf("line %d does not match its schema: %v", i+1, err)
		}
	}
	if again := s.do(t, "GET", "/raft/backup", "", `If-None-Match: "6"`); again.status != 304 || again.body != "" {
		t.Errorf("backup with If-None-Match of its revision: status = %d, want 304 without a body", again.status)
	}
	if head := s.do(t, "HEAD", "/raft/backup", ""); head.status != 200 || head.body != "" || head.header.Get("Etag") != `"6"` {
		t.Errorf("HEAD: answer = %d %q with ETag %s, want 200 without a body and ETag \"6\"", head.status, head.body, head.header.Get("Etag"))
	}
}

// goldenBackup compares a backup with a golden file that never changes, because users
// keep the backups that a release wrote.
func goldenBackup(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if os.IsNotExist(err) && *update {
		want, err = []byte(got), os.WriteFile(path, []byte(got), 0o644)
	}
	if err != nil || got != string(want) {
		t.Errorf("%s (%v) =\n%s\nwant\n%s", name, err, got, want)
	}
}

func TestEveryGoldenBackupIsRestored(t *testing.T) {
	paths, err := filepath.Glob("testdata/backup-v*.golden")
	if err != nil || len(paths) == 0 {
		t.Fatalf("there are no golden backups: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		origin := start(t)
		origin.registerEveryKind(t)
		s := start(t)
		s.register(t, domain.NodeSpec{ID: "other", Address: "h:2"})
		got := s.do(t, "POST", "/raft/restore", string(text))
		const want = `{"revision":5,"added":3,"updated":0,"removed":1,"unchanged":0,"backup":{"clusterID":"cluster-of-n1","revision":6}}`
		if got.status != 200 || got.body != want || got.header.Get("Nodesmetadata-Revision") != "5" || got.header.Get("Etag") != `"5"` {
			t.Errorf("%s: answer = %d %s %v, want 200 %s at revision 5", path, got.status, got.body, got.header, want)
		}
		if !reflect.DeepEqual(s.nodes(), origin.nodes()) {
			t.Errorf("%s: restored nodes = %+v\nwant %+v", path, s.nodes(), origin.nodes())
		}
	}
}

func TestARestoreIsStreamed(t *testing.T) {
	s := start(t)
	s.registerEveryKind(t)
	backup := s.do(t, "GET", "/raft/backup", "").body
	s.do(t, "PUT", "/nodes/new", `{"address":"h:7"}`)
	s.do(t, "PUT", "/nodes/plain", `{"address":"h:8"}`)
	s.do(t, "DELETE", "/nodes/full", "")
	events := s.stream(t, "/nodes/sse")
	events.event(t)
	got := s.do(t, "POST", "/raft/restore", backup, "Content-Type: application/octet-stream")
	const want = `{"revision":12,"added":1,"updated":1,"removed":1,"unchanged":1,"backup":{"clusterID":"cluster-of-n1","revision":6}}`
	if got.status != 200 || got.body != want {
		t.Errorf("answer = %d %s, want 200 %s", got.status, got.body, want)
	}
	for _, want := range []string{"removed new", "added full", "updated plain"} {
		var change struct {
			Type, Reason string
			Node         struct{ ID string }
		}
		if err := json.Unmarshal([]byte(events.event(t).data), &change); err != nil {
			t.Fatal(err)
		}
		if told := change.Type + " " + change.Node.ID; told != want || change.Reason != "restore" {
			t.Errorf("event = %s with reason %q, want %s with reason restore", told, change.Reason, want)
		}
	}
}

func TestARestoreAcceptsTheContentTypesOfABackup(t *testing.T) {
	s := start(t)
	for declared, want := range map[string]int{
		"application/vnd.nodesmetadata.backup": 200,
		"application/octet-stream":             200,
		"application/json":                     200,
		"application/json; charset=utf-8":      200,
		"text/plain":                           415, // a form on a web page can send these two
		"application/x-www-form-urlencoded":    415,
	} {
		if got := s.do(t, "POST", "/raft/restore", emptyBackup, "Content-Type: "+declared); got.status != want {
			t.Errorf("%s: answer = %d %s, want %d", declared, got.status, got.body, want)
		}
	}
}

func TestARestoreKeepsItsCondition(t *testing.T) {
	s := start(t)
	s.register(t, domain.NodeSpec{ID: "a", Address: "h:1"})
	for condition, want := range map[string]struct {
		status int
		code   string
	}{
		`If-Match: "0"`:      {412, "precondition_failed"},
		`If-Match: *`:        {400, "invalid_request"},
		`If-Match: 1`:        {400, "invalid_request"},
		`If-None-Match: "1"`: {400, "invalid_request"},
	} {
		got := s.do(t, "POST", "/raft/restore", emptyBackup, condition)
		if code, _ := got.problem(t); got.status != want.status || code != want.code || len(s.nodes()) != 1 {
			t.Errorf("%s: answer = %d %s, want %d %s", condition, got.status, got.body, want.status, want.code)
		}
	}
	if got := s.do(t, "POST", "/raft/restore", emptyBackup, `If-Match: "1"`); got.status != 200 || len(s.nodes()) != 0 {
		t.Errorf("If-Match of the current revision: answer = %d %s, want 200 and no nodes left", got.status, got.body)
	}
}

// Whichever byte is changed, and wherever the backup is cut off, nothing is restored.
func TestADamagedBackupChangesNothing(t *testing.T) {
	s := start(t)
	s.undescribed()
	s.registerEveryKind(t)
	before, _ := s.instance.State()
	backup := s.do(t, "GET", "/raft/backup", "").body
	refused := func(what, damaged string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "POST", "/raft/restore", strings.NewReader(damaged))
		if err != nil {
			t.Fatal(err)
		}
		w := &recorded{header: http.Header{}}
		s.Handler().ServeHTTP(w, r)
		if w.status != 400 || !strings.Contains(w.body.String(), `"damaged_backup"`) {
			t.Fatalf("%s: answer = %d %s, want 400 damaged_backup", what, w.status, w.body.String())
		}
	}
	for at := range len(backup) {
		for _, flip := range []byte{0x01, 0x20, 0x80} {
			damaged := []byte(backup)
			damaged[at] ^= flip
			refused(fmt.Sprintf("byte %d ^ %#x", at, flip), string(damaged))
		}
		refused(fmt.Sprintf("cut at %d", at), backup[:at])
	}
	refused("a byte too many", backup+"\n")
	refused("twice", backup+backup)
	if after, _ := s.instance.State(); after.View.Revision() != before.View.Revision() {
		t.Errorf("revision of the registry = %d, want %d", after.View.Revision(), before.View.Revision())
	}
}

// recorded is a response writer without deadlines, which makes tests of many requests fast.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorded) Header() http.Header         { return r.header }
func (r *recorded) WriteHeader(status int)      { r.status = status }
func (r *recorded) Write(b []byte) (int, error) { return r.body.Write(b) }

func TestTheFaultOfADamagedBackupIsNamed(t *testing.T) {
	node := func(id, rest string) string {
		return fmt.Sprintf(`{"id":%q,"address":"%s:1","pool":"p"%s}`, id, id, rest)
	}
	const valid = `,"weight":1,"state":"active","slot":`
	tests := map[string]struct{ body, says string }{
		"an empty body":                 {"", "empty"},
		"a list of nodes":               {`{"a":{"id":"a","address":"h:1"}}` + "\n", "no backup"},
		"a file that is no backup":      {"PK\x03\x04 it is none\n", "no backup"},
		"a line that is too long":       {strings.Repeat("x", 1<<17), "longer than 65536 bytes"},
		"a later version":               {sealed(`{"format":"nodesmetadata-backup","version":2,"new":true}`), "version 2, and this build reads 1"},
		"too many nodes":                {sealed(strings.Replace(backupHead(0), `"nodes":0`, `"nodes":250001`, 1)), "250001 nodes"},
		"a negative number of nodes":    {sealed(backupHead(-1)), "-1 nodes"},
		"an unknown member of the head": {sealed(strings.Replace(backupHead(0), `"nodes"`, `"new":1,"nodes"`, 1)), "line 1"},
		"a missing node":                {sealed(backupHead(2), node("a", valid+"0")), "line 3 of the backup: the backup ends here, before all"},
		"a surplus node":                {sealed(backupHead(0), node("a", valid+"0")), "checksum"},
		"an unknown member of a node":   {sealed(backupHead(1), node("a", valid+`0,"new":1`)), `line 2 of the backup: "new" is not known`},
		"an unknown state":              {sealed(backupHead(1), node("a", `,"weight":1,"state":"up","slot":0`)), `line 2 of the backup: node "a": state`},
		"one slot for two nodes":        {sealed(backupHead(2), node("a", valid+"0"), node("b", valid+"0")), `line 3 of the backup: node "b": slot`},
		"nodes out of order":            {sealed(backupHead(2), node("b", valid+"0"), node("a", valid+"1")), `line 3 of the backup: node "a": id`},
		"a wrong checksum":              {backupHead(0) + "\n" + `{"sha256":"` + strings.Repeat("0", 64) + "\"}\n", "checksum"},
		"no trailer":                    {backupHead(0) + "\n", "is not whole"},
		"a truncated line":              {backupHead(0), "is not whole"},
		"data after the trailer":        {emptyBackup + "x", "goes on behind its end"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			got := s.do(t, "POST", "/raft/restore", test.body)
			if code, detail := got.problem(t); got.status != 400 || code != "damaged_backup" || !strings.Contains(detail, test.says) {
				t.Errorf("answer = %d %s, want 400 damaged_backup with %q", got.status, got.body, test.says)
			}
		})
	}
}

func TestABackupIsForTheLeader(t *testing.T) {
	s := start(t)
	s.register(t, domain.NodeSpec{ID: "a", Address: "h:1"})
	follower := s.startFollower(t)
	own := s.do(t, "GET", "/raft/backup", "")
	for _, query := range []string{"?redirect=false", "?consistency=stale"} {
		if got := follower.do(t, "GET", "/raft/backup"+query, ""); got.status != 200 || got.body != own.body {
			t.Errorf("%s: answer = %d %s, want 200 and the same backup", query, got.status, got.body)
		}
	}
	if got := follower.do(t, "GET", "/raft/backup", ""); got.status != 307 || got.header.Get("Location") != "http://n1.test:8080/raft/backup" {
		t.Errorf("backup of a follower: answer = %d %v, want 307 to the leader", got.status, got.header)
	}
	// A follower can't restore the backup, so it must not read it.
	body := &endless{left: 1 << 40}
	got := follower.send(t, "POST", "/raft/restore?redirect=true", body)
	if got.status != 307 || got.header.Get("Location") != "http://n1.test:8080/raft/restore?redirect=true" {
		t.Errorf("restore on a follower: answer = %d %v, want 307 to the leader", got.status, got.header)
	}
}

// beginRestore sends the first bytes of emptyBackup, and returns once the server refuses any
// other restore. The caller writes the other bytes to rest and closes it; answered then
// delivers the answer.
func (s *service) beginRestore(t *testing.T) (rest *io.PipeWriter, answered <-chan reply) {
	t.Helper()
	answers := make(chan reply, 1)
	begin := func() {
		var body *io.PipeReader
		body, rest = io.Pipe()
		go func() { answers <- s.send(t, "POST", "/raft/restore", body) }()
		// The transport takes the next byte after it has sent those before. An error means
		// that the restore was refused.
		_, _ = io.WriteString(rest, emptyBackup[:10])
		_, _ = io.WriteString(rest, emptyBackup[10:restoreBegun])
	}
	begin()
	eventually(t, "the server reads the backup", func() bool {
		if code, _ := s.do(t, "POST", "/raft/restore", "none").problem(t); code == "busy" {
			return true
		}
		select {
		case <-answers: // refused, because the other restore was being read
			_ = rest.Close()
			begin()
		default:
		}
		return false
	})
	return rest, answers
}

// restoreBegun is how many bytes beginRestore sends.
const restoreBegun = 11

func TestOneBackupIsRestoredAtATime(t *testing.T) {
	s := start(t)
	writer, first := s.beginRestore(t)
	if got := s.do(t, "POST", "/raft/restore", emptyBackup); got.status != 503 {
		t.Errorf("second restore: answer = %d %s, want 503", got.status, got.body)
	}
	if _, err := io.WriteString(writer, emptyBackup[restoreBegun:]); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	if got := <-first; got.status != 200 {
		t.Errorf("first restore: answer = %d %s, want 200", got.status, got.body)
	}
	if got := s.do(t, "POST", "/raft/restore", emptyBackup); got.status != 200 {
		t.Errorf("restore after the first: answer = %d %s, want 200", got.status, got.body)
	}
}

// The refusal comes at once, however long the backup would take to arrive.
func TestABackupThatIsRefusedIsNotWaitedFor(t *testing.T) {
	s := start(t)
	follower := s.startFollower(t)
	conn := follower.dial(t, "POST /raft/restore HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 307 || !response.Close {
		t.Errorf("status = %s, connection closed = %v, want 307 and true", response.Status, response.Close)
	}
}

// Many clients read no answer before they have sent everything, and an operator may ask any
// instance.
func TestAClientThatSendsAllOfARefusedBackupGetsTheAnswer(t *testing.T) {
	s := start(t)
	follower := s.startFollower(t)
	const long = 40 << 20 // more than the server reads of any other unwanted body
	for name, test := range map[string]struct {
		of     *service
		status int
	}{
		"refused by a follower":           {follower, 307},
		"refused because it is no backup": {s, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := test.of.dial(t, fmt.Sprintf("POST /raft/restore HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", long))
			if _, err := io.Copy(conn, &endless{left: long}); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(response.Body); err != nil || response.StatusCode != test.status || !response.Close {
				t.Errorf("answer = %d %s, %v, want %d and the end of the connection", response.StatusCode, said, err, test.status)
			}
		})
	}
}

// A client that sends a backup must not hold up the end of the server.
func TestABackupThatArrivesDoesNotKeepTheServerOpen(t *testing.T) {
	for name, useHTTP2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			if useHTTP2 {
				s.useHTTP2()
			}
			writer, first := s.beginRestore(t)
			defer writer.Close()
			s.closesWithin(t, uploadsAreCutOff)
			select {
			case got := <-first:
				if code, _ := got.problem(t); got.status != 503 || code != "shutting_down" {
					t.Errorf("answer = %d %s, want 503 shutting_down", got.status, got.body)
				}
			case <-time.After(patience):
				t.Fatal("the restore is not answered")
			}
		})
	}
}

// uploadsAreCutOff is less than the time in which a client must send the next piece.
const uploadsAreCutOff = 5 * time.Second

// A backup is longer than any other body may be, and may take longer to arrive.
func TestALongBackupIsRestored(t *testing.T) {
	for name, useHTTP2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Any other body would have to arrive within 2.6 s, and be answered within 5.1.
			s := start(t, func(c *httpapi.Config) { c.RequestTimeout, c.MaxBodyBytes = 100*time.Millisecond, 1000 })
			s.undescribed()
			if useHTTP2 {
				s.useHTTP2()
			}
			s.fill(t, 5000)
			backup := s.do(t, "GET", "/raft/backup", "").body
			s.do(t, "PUT", "/nodes/more", `{"address":"h:1"}`)
			reader, writer := io.Pipe()
			var sending sync.WaitGroup
			defer sending.Wait()
			defer reader.Close()
			sending.Go(func() {
				for part := range slices.Chunk([]byte(backup), len(backup)/8) {
					<-time.After(700 * time.Millisecond)
					if _, err := writer.Write(part); err != nil {
						t.Errorf("the server reads no more of the backup: %v", err)
						break
					}
				}
				_ = writer.Close()
			})
			if got := s.send(t, "POST", "/raft/restore", reader); got.status != 200 || !strings.Contains(got.body, `"removed":1,"unchanged":5000`) {
				t.Errorf("answer = %d %s, want 200 with 1 removed and 5000 unchanged", got.status, got.body)
			}
		})
	}
}

func TestAnyNodeComesBackFromItsBackup(t *testing.T) {
	texts := rapid.StringN(0, 30, domain.MaxZoneBytes).Filter(func(text string) bool {
		_, err := domain.NewCacheNode(domain.NodeSpec{ID: "a", Address: "h:1", Zone: text})
		return err == nil
	})
	names := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._:-]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		pool, weight := names.Draw(t, "pool"), rapid.IntRange(0, domain.MaxWeight).Draw(t, "weight")
		state := rapid.SampledFrom([]domain.State{domain.Active, domain.Draining, domain.Down}).Draw(t, "state")
		onExpiry := rapid.SampledFrom([]domain.OnExpiry{domain.RemoveOnExpiry, domain.DownOnExpiry}).Draw(t, "on expiry")
		node, err := domain.NewCacheNode(domain.NodeSpec{
			ID: "a", Address: "h:1", Pool: &pool, Weight: &weight, Zone: texts.Draw(t, "zone"), State: &state, OnExpiry: &onExpiry,
			Labels: rapid.MapOfN(names, texts, 0, domain.MaxLabels).Draw(t, "labels"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "leased") {
			node.TTLSeconds = rapid.IntRange(1, domain.MaxTTLSeconds).Draw(t, "time to live")
			if node.State == domain.Down && node.OnExpiry == domain.DownOnExpiry {
				node.ExpiredFrom = rapid.SampledFrom([]domain.State{"", domain.Active, domain.Draining}).Draw(t, "expired from")
			}
		}
		node.Slot = rapid.IntRange(0, domain.MaxNodes-1).Draw(t, "slot")
		node.CreatedRevision, node.Revision = 1, 2
		registry, err := domain.RestoreRegistry(2, []*domain.CacheNode{&node}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var file bytes.Buffer
		if err := httpapi.WriteBackup(&file, "c", registry.View()); err != nil {
			t.Fatal(err)
		}
		backup, err := httpapi.ReadBackup(&file)
		if err != nil {
			t.Fatal(err)
		}
		if nodes := backup.Nodes.Nodes(); len(nodes) != 1 || !reflect.DeepEqual(*nodes[0], node) {
			t.Fatalf("restored node = %+v\nwant %+v", *nodes[0], node)
		}
	})
}

func FuzzReadBackup(f *testing.F) {
	f.Add([]byte(emptyBackup))
	if golden, err := os.ReadFile("testdata/backup-v1.golden"); err == nil {
		f.Add(golden)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		backup, err := httpapi.ReadBackup(bytes.NewReader(data))
		if err != nil {
			return
		}
		if _, err := domain.NewRegistry().Replace(backup.Nodes, nil); err != nil {
			t.Error(err)
		}
	})
}
