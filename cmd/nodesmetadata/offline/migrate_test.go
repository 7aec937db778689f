package offline_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

func eachPair(t *testing.T, test func(t *testing.T, from, to string)) {
	t.Helper()
	for _, from := range backends {
		for _, to := range backends {
			if from != to {
				t.Run(from+" to "+to, func(t *testing.T) { test(t, from, to) })
			}
		}
	}
}

func TestMigrate(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to string) {
		dir, address, has := livedIn(t, from)
		before := mustRun(t, "storage", "check", "--raft_dir="+dir)
		said := mustRun(t, "storage", "migrate", "--from="+from, "--to="+to, "--raft_dir="+dir)
		for _, words := range []string{"copied entries ", "found it the same", "log." + to + " is complete", "instance.json says " + to, "removed log." + from, "--storage_backend=" + to} {
			if !strings.Contains(said, words) {
				t.Errorf("migrate does not say %q:\n%s", words, said)
			}
		}
		after := mustRun(t, "storage", "check", "--raft_dir="+dir)
		if after != strings.Replace(before, "storage backend  "+from, "storage backend  "+to, 1) {
			t.Errorf("report of check was\n%s\nand is\n%s\nwant only another backend", before, after)
		}
		if _, err := os.Lstat(filepath.Join(dir, "log."+from)); !os.IsNotExist(err) {
			t.Errorf("the old log is still there: %v", err)
		}
		i := start(t, dir, "n1", to, "--raft_bind_address="+address)
		i.await("/readyz")
		i.registry().mustBe(t, has)
		i.put(101, 102)
		has = i.registry()
		i.stop()
		// Migrate back.
		mustRun(t, "storage", "migrate", "--from="+to, "--to="+from, "--raft_dir="+dir)
		i = start(t, dir, "n1", from, "--raft_bind_address="+address)
		i.await("/readyz")
		i.registry().mustBe(t, has)
	})
}

func TestMigrateAfterACrash(t *testing.T) {
	eachPair(t, func(t *testing.T, from, to string) {
		dir := crashed(t, from)
		mustRun(t, "storage", "migrate", "--from="+from, "--to="+to, "--raft_dir="+dir)
		i := start(t, dir, "n1", to)
		i.await("/readyz")
		if got := i.registry(); got.revision != "100" || len(got.nodes) != 100 {
			t.Errorf("registry at revision %s with %d nodes, want 100 and 100", got.revision, len(got.nodes))
		}
	})
}

func TestCheckReportsAMigrationThatWasStopped(t *testing.T) {
	dir, _, _ := livedIn(t, "bolt")
	left, spare := filepath.Join(dir, "migration.tmp"), filepath.Join(dir, "log.badger")
	for _, folder := range []string{left, spare} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	status, _, stderr := program(t, "storage", "check", "--raft_dir="+dir)
	if status != 0 || !strings.Contains(stderr, "warning: "+left) || !strings.Contains(stderr, "warning: "+spare) {
		t.Errorf("status = %d, want 0 and warnings about %s and %s: %s", status, left, spare, stderr)
	}
	mustRun(t, "storage", "migrate", "--from=bolt", "--to=badger", "--raft_dir="+dir)
	mustRun(t, "storage", "check", "--raft_dir="+dir)
}

func TestMigrateRefuses(t *testing.T) {
	dir, _, _ := livedIn(t, "bolt")
	damaged := crashed(t, "bolt")
	flip(t, filepath.Join(damaged, "log.bolt"), lastOf("node-50.example"))
	empty := t.TempDir()
	for name, test := range map[string]struct {
		from, to, dir string
		says          []string
	}{
		"a directory of another backend": {"badger", "bolt", dir, []string{`uses "bolt" already: there is nothing to do`}},
		"a directory that is damaged":    {"bolt", "badger", damaged, []string{"log.bolt: entry 53: checksum mismatch", "nothing was changed"}},
		"no directory of an instance":    {"bolt", "badger", empty, []string{"no instance has ever used", empty}},
	} {
		t.Run(name, func(t *testing.T) {
			before := logstoretest.Tree(t, test.dir)
			mustFail(t, 1, test.says, "storage", "migrate", "--from="+test.from, "--to="+test.to, "--raft_dir="+test.dir)
			if after := logstoretest.Tree(t, test.dir); after != before {
				t.Errorf("the directory was changed: from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestTheRefusalOfAnotherBackendNamesACommandThatWorks(t *testing.T) {
	dir, address, has := livedIn(t, "bolt")
	mustFail(t, 1, []string{"nodesmetadata storage migrate --from bolt --to badger --raft_dir " + dir},
		"--raft_id=n1", "--raft_dir="+dir, "--storage_backend=badger", "--raft_bind_address="+address, "--application_bind_address=127.0.0.1:0")
	mustRun(t, strings.Fields("storage migrate --from bolt --to badger --raft_dir "+dir)...)
	i := start(t, dir, "n1", "badger", "--raft_bind_address="+address)
	i.await("/readyz")
	i.registry().mustBe(t, has)
}
