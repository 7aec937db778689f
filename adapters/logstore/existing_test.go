package logstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

type claimant func(string) (*logstore.Directory, error)

var claimants = map[string]claimant{"ClaimExisting": logstore.ClaimExisting, "ClaimReadOnly": logstore.ClaimReadOnly}

func TestClaimOfAnExistingDirectoryWithoutAnInstance(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		err   error
	}{
		"an empty directory": {err: logstore.ErrNoInstance},
		"foreign files":      {files: map[string]string{"README": "mine"}, err: logstore.ErrNoInstance},
		"a lost manifest":    {files: map[string]string{"log.bolt": "x"}, err: logstore.ErrForeignDirectory},
		"a damaged manifest": {files: map[string]string{"instance.json": "{", "instance.lock": ""}, err: logstore.ErrDamagedManifest},
		"a newer format":     {files: map[string]string{"instance.json": `{"format":3}`, "instance.lock": ""}, err: logstore.ErrNewerFormat},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for by, claim := range claimants {
				dir := t.TempDir()
				for file, content := range test.files {
					write(t, filepath.Join(dir, file), content)
				}
				before := logstoretest.Tree(t, dir)
				if _, err := claim(dir); !errors.Is(err, test.err) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s = %v, want %v naming %s", by, err, test.err, dir)
				}
				if after := logstoretest.Tree(t, dir); after != before {
					t.Errorf("%s changed the directory from\n%s\nto\n%s", by, before, after)
				}
			}
		})
	}
	for by, claim := range claimants {
		missing := filepath.Join(t.TempDir(), "missing")
		if _, err := claim(missing); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s of a directory that does not exist = %v, want fs.ErrNotExist", by, err)
		}
		if _, err := os.Lstat(missing); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s created the directory", by)
		}
		file := filepath.Join(t.TempDir(), "file")
		write(t, file, "x")
		if _, err := claim(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s of a file = %v, want an error that names %s", by, err, file)
		}
	}
}

func TestClaimOfAnInstancesDirectory(t *testing.T) {
	dir := t.TempDir()
	running := claim(t, dir)
	if err := running.SetClusterID("cluster-a"); err != nil {
		t.Fatal(err)
	}
	for by, claim := range claimants {
		if _, err := claim(dir); !errors.Is(err, logstore.ErrDirectoryInUse) {
			t.Errorf("%s while an instance runs = %v, want ErrDirectoryInUse", by, err)
		}
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	for by, claim := range claimants {
		directory, err := claim(dir)
		if err != nil {
			t.Fatalf("%s = %v, want success", by, err)
		}
		if directory.RaftID() != "node0" || directory.Backend() != "bolt" || directory.ClusterID() != "cluster-a" || directory.Path() != dir {
			t.Errorf("%s: %q, %q, %q, %q", by, directory.RaftID(), directory.Backend(), directory.ClusterID(), directory.Path())
		}
		if out, code := claimElsewhere(t, dir); code != 3 {
			t.Errorf("an instance started beside %s: exit %d, %s", by, code, out)
		}
		if err := directory.Close(); err != nil {
			t.Fatal(err)
		}
	}
	claim(t, dir)
}

func TestWrittenByNeedsNoClaim(t *testing.T) {
	dir := t.TempDir()
	if backend, found := logstore.WrittenBy(dir); found {
		t.Errorf("WrittenBy of an empty directory = %q, want none", backend)
	}
	running := claim(t, dir)
	if backend, found := logstore.WrittenBy(dir); !found || backend != "bolt" {
		t.Errorf("WrittenBy = %q, %v, want bolt", backend, found)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "instance.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if backend, found := logstore.WrittenBy(dir); found {
		t.Errorf("WrittenBy without a readable manifest = %q, want none", backend)
	}
}

func TestAReadOnlyClaimChangesNothing(t *testing.T) {
	dir := t.TempDir()
	running := claim(t, dir)
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	// Such as a copy of a directory.
	if err := os.Remove(filepath.Join(dir, "instance.lock")); err != nil {
		t.Fatal(err)
	}
	before := logstoretest.Tree(t, dir)
	first, err := logstore.ClaimReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := logstore.ClaimReadOnly(dir)
	if err != nil {
		t.Fatalf("two readers at once: %v, want success", err)
	}
	if err := first.SetClusterID("a"); !errors.Is(err, logstore.ErrReadOnly) {
		t.Errorf("SetClusterID: %v, want ErrReadOnly", err)
	}
	if err := first.Migrate(t.Context(), logstore.Migration{From: bolted, To: badgered}); !errors.Is(err, logstore.ErrReadOnly) {
		t.Errorf("Migrate: %v, want ErrReadOnly", err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if after := logstoretest.Tree(t, dir); after != before {
		t.Errorf("the directory was changed from\n%s\nto\n%s", before, after)
	}
}
