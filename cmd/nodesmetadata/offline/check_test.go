package offline_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

func TestCheckOfASoundDirectory(t *testing.T) {
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			lived, address, has := livedIn(t, backend)
			for name, dir := range map[string]string{"stopped": lived, "killed": crashed(t, backend)} {
				before := logstoretest.Tree(t, dir)
				report := mustRun(t, "storage", "check", "--raft_dir="+dir)
				if after := logstoretest.Tree(t, dir); after != before {
					t.Errorf("%s: the directory was changed: from\n%s\nto\n%s", name, before, after)
				}
				words := []string{"directory ", dir, "storage backend  " + backend, "raft id          n1", "cluster id ", "term ", "vote             for 127.0.0.1:",
					"log              entries ", "reaches          entry ", "membership       n1=127.0.0.1:", " voter", "as of entry 1", "revision 100, 100 nodes", "no damage was found"}
				if name == "stopped" {
					words = append(words, "snapshots        up to entry ", " bytes (", "n1="+address)
				}
				for _, word := range words {
					if !strings.Contains(report, word) {
						t.Errorf("%s: the report does not say %q:\n%s", name, word, report)
					}
				}
			}
			i := start(t, lived, "n1", backend)
			i.await("/readyz")
			i.registry().mustBe(t, has)
		})
	}
}

func TestCheckOfABlankDirectory(t *testing.T) {
	for _, backend := range append([]string{"memory"}, backends...) {
		dir := t.TempDir()
		start(t, dir, "n1", backend).stop()
		if report := mustRun(t, "storage", "check", "--raft_dir", dir); !strings.Contains(report, "raft state       none") || !strings.Contains(report, backend) {
			t.Errorf("report of %s = %s, want no raft state and the backend", backend, report)
		}
	}
}

func TestCheckOfADirectoryWithoutAnInstance(t *testing.T) {
	empty := t.TempDir()
	missing := filepath.Join(empty, "missing")
	mustFail(t, 1, []string{"no such file", missing}, "storage", "check", "--raft_dir="+missing)
	mustFail(t, 1, []string{"no instance has ever used this directory", empty}, "storage", "check", "--raft_dir="+empty)
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("files in the directory = %v, %v, want none", left, err)
	}
}

func TestCheckOfARunningInstance(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir, "n1", "bolt", "--bootstrap_raft_cluster")
	i.await("/readyz")
	for _, args := range [][]string{
		{"storage", "check", "--raft_dir=" + dir},
		{"storage", "migrate", "--from=bolt", "--to=badger", "--raft_dir=" + dir},
		{"recover", "--raft_dir=" + dir, "--instance=n1=" + i.raftAddress()},
	} {
		mustFail(t, 1, []string{"in use by another instance", dir, "stop it first"}, args...)
	}
	i.put(1, 1)
}

// dataOf returns a function that finds the entry of a node by the address in it.
func dataOf(id string) func(raw []byte) int {
	return func(raw []byte) int { return bytes.Index(raw, []byte(id+".example")) }
}

func TestCheckReportsDamage(t *testing.T) {
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	only := func(t *testing.T, pattern string) string {
		t.Helper()
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("files that match %s = %v, %v, want some", pattern, paths, err)
		}
		return paths[len(paths)-1]
	}
	write := func(t *testing.T, path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const rejoin = "let it join anew with an empty directory"
	tests := map[string]struct {
		backend string
		killed  bool
		damage  func(t *testing.T, dir string)
		says    []string
	}{
		"an entry in the middle of bolt": {backend: "bolt", killed: true,
			damage: func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "log.bolt"), lastOf("node-50.example")) },
			says:   []string{"log.bolt: entry 53: checksum mismatch", rejoin}},
		"the last entry of bolt": {backend: "bolt", killed: true,
			damage: func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "log.bolt"), lastOf("node-100.example")) },
			says:   []string{"log.bolt: entry 103: checksum mismatch", rejoin}},
		"a write in the middle of badger": {backend: "badger", killed: true,
			damage: func(t *testing.T, dir string) {
				flip(t, only(t, filepath.Join(dir, "log.badger", "*.mem")), dataOf("node-50"))
			},
			says: []string{"log.badger", ".mem: unreadable at byte", "write-ahead log is damaged before its end", rejoin}},
		"a table of badger": {backend: "badger",
			damage: func(t *testing.T, dir string) {
				flip(t, only(t, filepath.Join(dir, "log.badger", "*.sst")), dataOf("node-90"))
			},
			says: []string{"log.badger", ".sst", "badger files are damaged", rejoin}},
		"the end of a table of badger": {backend: "badger",
			damage: func(t *testing.T, dir string) {
				flip(t, only(t, filepath.Join(dir, "log.badger", "*.sst")), func(raw []byte) int { return len(raw) - 2 })
			},
			says: []string{"log.badger", ".sst", "badger files are damaged", rejoin}},
		"a missing list of tables of badger": {backend: "badger",
			damage: func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log.badger", "MANIFEST")) },
			says:   []string{"MANIFEST is missing", rejoin}},
		"a missing log of bolt": {backend: "bolt",
			damage: func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log.bolt")) },
			says:   []string{"log.bolt: it is missing", rejoin}},
		"a missing log of badger": {backend: "badger",
			damage: func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log.badger")) },
			says:   []string{"log.badger: it is missing", rejoin}},
		"a write in the middle of wal": {backend: "wal", killed: true,
			damage: func(t *testing.T, dir string) {
				flip(t, only(t, filepath.Join(dir, "log.wal", "*.wal")), dataOf("node-50"))
			},
			says: []string{"log.wal", ".wal: unreadable at byte", "what was written later follows", "write-ahead log is damaged", rejoin}},
		"the last write of wal": {backend: "wal",
			damage: func(t *testing.T, dir string) {
				flip(t, only(t, filepath.Join(dir, "log.wal", "*.wal")), lastOf("node-100.example"))
			},
			says: []string{"log.wal", ".wal: unreadable at byte", rejoin}},
		"a missing file of wal": {backend: "wal",
			damage: func(t *testing.T, dir string) { remove(t, only(t, filepath.Join(dir, "log.wal", "*.wal"))) },
			says:   []string{"log.wal", ".wal is missing", rejoin}},
		"a missing list of files of wal": {backend: "wal",
			damage: func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log.wal", "segments.json")) },
			says:   []string{"segments.json is missing", rejoin}},
		"a missing log of wal": {backend: "wal",
			damage: func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "log.wal")) },
			says:   []string{"log.wal: it is missing", rejoin}},
		"the older snapshot": {backend: "badger",
			damage: func(t *testing.T, dir string) { flip(t, snapshotStates(t, dir)[0], middle) },
			says:   []string{"state.bin: checksum mismatch", "move it away"}},
		"both snapshots": {backend: "badger",
			damage: func(t *testing.T, dir string) {
				for _, path := range snapshotStates(t, dir) {
					flip(t, path, middle)
				}
			},
			says: []string{"state.bin: checksum mismatch", "no snapshot that is whole", rejoin}},
		"a truncated manifest": {backend: "bolt",
			damage: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "instance.json"), `{"format":1,"ra`) },
			says:   []string{"manifest of the raft directory is damaged", "instance.json", "restore the file from a copy"}},
		"a missing manifest": {backend: "bolt",
			damage: func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "instance.json")) },
			says:   []string{"holds raft state but no manifest", "restore its instance.json"}},
		"a manifest of a newer format": {backend: "bolt",
			damage: func(t *testing.T, dir string) { write(t, filepath.Join(dir, "instance.json"), `{"format":3}`) },
			says:   []string{"newer format", "run the version that wrote it"}},
		"a backend of a newer build": {backend: "bolt",
			damage: func(t *testing.T, dir string) {
				write(t, filepath.Join(dir, "instance.json"), `{"format":1,"raft_id":"n1","backend":"tape","cluster_id":""}`)
			},
			says: []string{`"tape" is none of bolt, badger, wal, memory`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var dir string
			if test.killed {
				dir = crashed(t, test.backend)
			} else {
				dir, _, _ = livedIn(t, test.backend)
			}
			test.damage(t, dir)
			before := logstoretest.Tree(t, dir)
			mustFail(t, 1, append(test.says, dir), "storage", "check", "--raft_dir="+dir)
			if after := logstoretest.Tree(t, dir); after != before {
				t.Errorf("the directory was changed: from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// lastOf returns a function that finds the last place of text: bolt leaves replaced pages
// behind, so the earlier places may not count.
func lastOf(text string) func(raw []byte) int {
	return func(raw []byte) int { return bytes.LastIndex(raw, []byte(text)) }
}

// A crash may leave the end of a write-ahead log incomplete, so that is no damage. Check warns
// that it is dropped.
func TestCheckWarnsOfATornEnd(t *testing.T) {
	dir := crashed(t, "badger")
	paths, err := filepath.Glob(filepath.Join(dir, "log.badger", "*.mem"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("memory tables = %v, %v, want one", paths, err)
	}
	flip(t, paths[0], dataOf("node-100"))
	status, report, stderr := program(t, "storage", "check", "--raft_dir="+dir)
	if status != 0 || !strings.Contains(report, "revision 99, 99 nodes") || !strings.Contains(report, "no damage was found") {
		t.Errorf("status = %d, want 0 and no damage:\n%s", status, report)
	}
	if strings.Count(stderr, "warning: the last write is not whole") != 1 || !strings.Contains(stderr, paths[0]) {
		t.Errorf("stderr = %s, want one warning naming the file", stderr)
	}
}

func TestCheckNamesWhatIsLeftOfASnapshot(t *testing.T) {
	dir, _, _ := livedIn(t, "bolt")
	var left []string
	for _, name := range []string{"1-2-1000", "9-9-1000.tmp"} {
		path := filepath.Join(dir, "snapshots", name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		left = append(left, path+" is what is left of a snapshot")
	}
	before := logstoretest.Tree(t, dir)
	status, report, stderr := program(t, "storage", "check", "--raft_dir="+dir)
	if status != 0 || !strings.Contains(report, "no damage was found") {
		t.Errorf("status = %d, want 0 and no damage:\n%s", status, report)
	}
	for _, words := range left {
		if !strings.Contains(stderr, words) {
			t.Errorf("stderr does not say %q:\n%s", words, stderr)
		}
	}
	if after := logstoretest.Tree(t, dir); after != before {
		t.Errorf("the directory was changed: from\n%s\nto\n%s", before, after)
	}
}
