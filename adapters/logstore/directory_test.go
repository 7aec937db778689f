package logstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

var owner = logstore.Owner{RaftID: "node0", Backend: "bolt"}

func claim(t *testing.T, path string) *logstore.Directory {
	t.Helper()
	directory, err := logstore.Claim(path, owner)
	if err != nil {
		t.Fatalf("Claim: %v", err)
	}
	t.Cleanup(func() {
		if err := directory.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return directory
}

func TestPresentNoticesAMissingDirectory(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, path string) error{
		"removed": func(_ *testing.T, path string) error { return os.RemoveAll(path) },
		"moved":   func(t *testing.T, path string) error { return os.Rename(path, filepath.Join(t.TempDir(), "elsewhere")) },
		"replaced": func(t *testing.T, path string) error {
			err := os.Rename(path, filepath.Join(t.TempDir(), "elsewhere"))
			return errors.Join(err, os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "instance.lock"), nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "raft")
			directory := claim(t, path)
			if err := directory.Present(); err != nil {
				t.Errorf("Present = %v, want no error", err)
			}
			if err := end(t, path); err != nil {
				t.Fatal(err)
			}
			if err := directory.Present(); !errors.Is(err, logstore.ErrDirectoryGone) {
				t.Errorf("Present of a directory that was %s = %v, want ErrDirectoryGone", name, err)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestClaimOfAnExistingDirectory(t *testing.T) {
	const ours = `{"format":2,"raft_id":"node0","backend":"bolt","cluster_id":""}`
	tests := map[string]struct {
		files map[string]string
		owner logstore.Owner
		err   error
		says  []string // what the error must name
	}{
		"an empty directory is claimed":                   {},
		"the owner's directory is claimed again":          {files: map[string]string{"instance.json": ours, "log.bolt": "x"}},
		"foreign files are left alone":                    {files: map[string]string{"README": "mine", "lost+found": ""}},
		"a crash before the first manifest is no harm":    {files: map[string]string{"instance.lock": "", "instance.json.tmp": `{"for`}},
		"a crash while the manifest was replaced":         {files: map[string]string{"instance.json": ours, "instance.json.tmp": `{"for`}},
		"another raft id is refused":                      {files: map[string]string{"instance.json": ours}, owner: logstore.Owner{RaftID: "node1", Backend: "bolt"}, err: logstore.ErrOtherID, says: []string{`"node0"`, `"node1"`}},
		"another backend is refused":                      {files: map[string]string{"instance.json": ours}, owner: logstore.Owner{RaftID: "node0", Backend: "badger"}, err: logstore.ErrOtherBackend, says: []string{`"bolt"`, `"badger"`, "nodesmetadata storage migrate"}},
		"a volatile backend after another is refused":     {files: map[string]string{"instance.json": ours}, owner: logstore.Owner{RaftID: "node0", Backend: "memory", Volatile: []string{"memory"}}, err: logstore.ErrOtherBackend, says: []string{`"bolt"`, `"memory" keeps nothing`, "empty directory"}},
		"a backend after a volatile one is refused":       {files: map[string]string{"instance.json": ours}, owner: logstore.Owner{RaftID: "node0", Backend: "badger", Volatile: []string{"bolt"}}, err: logstore.ErrOtherBackend, says: []string{`"badger"`, `"bolt" keeps nothing`, "empty directory"}},
		"a newer format is refused, whatever is in it":    {files: map[string]string{"instance.json": `{"format":3,"raft_id":["a"],"new":{}}`}, err: logstore.ErrNewerFormat, says: []string{"format 3"}},
		"an empty manifest is damage":                     {files: map[string]string{"instance.json": ""}, err: logstore.ErrDamagedManifest},
		"a cut manifest is damage":                        {files: map[string]string{"instance.json": ours[:20]}, err: logstore.ErrDamagedManifest},
		"a manifest with a tail is damage":                {files: map[string]string{"instance.json": ours + "x"}, err: logstore.ErrDamagedManifest},
		"two manifests in one file are damage":            {files: map[string]string{"instance.json": ours + ours}, err: logstore.ErrDamagedManifest},
		"a manifest without format is damage":             {files: map[string]string{"instance.json": `{"raft_id":"node0","backend":"bolt"}`}, err: logstore.ErrDamagedManifest},
		"a manifest without raft id is damage":            {files: map[string]string{"instance.json": `{"format":1,"backend":"bolt"}`}, err: logstore.ErrDamagedManifest},
		"a manifest without backend is damage":            {files: map[string]string{"instance.json": `{"format":1,"raft_id":"node0"}`}, err: logstore.ErrDamagedManifest},
		"a manifest with unknown fields is damage":        {files: map[string]string{"instance.json": strings.Replace(ours, "cluster_id", "custer_id", 1)}, err: logstore.ErrDamagedManifest},
		"a log without its manifest is refused":           {files: map[string]string{"log.bolt": "x"}, err: logstore.ErrForeignDirectory, says: []string{"log.bolt"}},
		"snapshots without their manifest are refused":    {files: map[string]string{"snapshots": ""}, err: logstore.ErrForeignDirectory, says: []string{"snapshots"}},
		"an incomplete owner is refused with all reasons": {owner: logstore.Owner{}, err: errIncomplete, says: []string{"raft id", "backend"}},
		"the manifest of an older version is read":        {files: map[string]string{"instance.json": golden(t, 1)}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range test.files {
				write(t, filepath.Join(dir, file), content)
			}
			asked := test.owner
			if asked.RaftID == "" && !errors.Is(test.err, errIncomplete) {
				asked = owner
			}
			directory, err := logstore.Claim(dir, asked)
			if err == nil {
				defer func() { _ = directory.Close() }()
			}
			switch {
			case test.err == nil && err != nil:
				t.Fatalf("Claim = %v, want success", err)
			case test.err == nil:
				return
			case err == nil:
				t.Fatal("Claim = nil, want an error")
			case !errors.Is(test.err, errIncomplete) && !errors.Is(err, test.err):
				t.Fatalf("Claim = %v, want %v", err, test.err)
			}
			for _, word := range test.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not name %s", err, word)
				}
			}
			wantUntouched(t, dir, test.files)
			wantUnlocked(t, dir)
		})
	}
}

// errIncomplete stands for the error of Owner.Validate, which has no name.
var errIncomplete = errors.New("incomplete owner")

func golden(t *testing.T, format int) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("testdata/instance-v%d.json", format))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func wantUntouched(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for file, content := range files {
		if raw, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(raw) != content {
			t.Errorf("%s became %q (%v), was %q", file, raw, err, content)
		}
	}
	if _, had := files["instance.json"]; !had {
		if _, err := os.Stat(filepath.Join(dir, "instance.json")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a refused claim left a manifest (%v)", err)
		}
	}
}

// wantUnlocked removes everything that a claim could object to except the lock.
func wantUnlocked(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"instance.json", "log.bolt", "snapshots"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	claim(t, dir)
}

func TestClaimCreatesWhatIsMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	directory := claim(t, path)
	if directory.Path() != path {
		t.Errorf("Path = %q, want %q", directory.Path(), path)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode is %v (%v), want 0700", info.Mode(), err)
	}
	if id := directory.ClusterID(); id != "" {
		t.Errorf("ClusterID = %q, want none", id)
	}
}

func TestClaimOfAFileFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "x")
	if _, err := logstore.Claim(path, owner); err == nil || !strings.Contains(err.Error(), path+" is not a directory") {
		t.Fatalf("Claim = %v, want that %s is not a directory", err, path)
	}
}

func TestPathIsAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	if directory := claim(t, "data"); !filepath.IsAbs(directory.Path()) {
		t.Fatalf("Path = %q, want an absolute path", directory.Path())
	}
}

func TestADirectoryHasOneHolder(t *testing.T) {
	dir := t.TempDir()
	first := claim(t, dir)
	for _, other := range []logstore.Owner{owner, {RaftID: "node1", Backend: "badger"}} {
		_, err := logstore.Claim(dir, other)
		if !errors.Is(err, logstore.ErrDirectoryInUse) || !strings.Contains(err.Error(), dir) {
			t.Fatalf("second claim: %v, want ErrDirectoryInUse naming %s", err, dir)
		}
	}
	if out, code := claimElsewhere(t, dir); code != 3 || !strings.Contains(out, dir) {
		t.Fatalf("claim by another process: exit %d, %s", code, out)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if out, code := claimElsewhere(t, dir); code != 0 {
		t.Fatalf("claim by another process after Close: exit %d, %s", code, out)
	}
	// That process ended without closing: the kernel released its lock.
	claim(t, dir)
}

func claimElsewhere(t *testing.T, dir string) (string, int) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), binary)
	child.Env = append(os.Environ(), claimEnv+"="+dir)
	out, err := child.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), child.ProcessState.ExitCode()
}

func TestOneOfManyClaimsWins(t *testing.T) {
	dir := t.TempDir()
	won := make(chan *logstore.Directory, 16)
	var group sync.WaitGroup
	for range cap(won) {
		group.Go(func() {
			directory, err := logstore.Claim(dir, owner)
			switch {
			case err == nil:
				won <- directory
			case !errors.Is(err, logstore.ErrDirectoryInUse):
				t.Errorf("Claim: %v", err)
			}
		})
	}
	group.Wait()
	close(won)
	if len(won) != 1 {
		t.Errorf("claims that won = %d, want 1", len(won))
	}
	for directory := range won {
		if err := directory.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheClusterIDIsSetOnce(t *testing.T) {
	dir := t.TempDir()
	directory := claim(t, dir)
	if err := directory.SetClusterID(""); err == nil {
		t.Error("SetClusterID of an empty id = nil, want an error")
	}
	for range 2 {
		if err := directory.SetClusterID("cluster-a"); err != nil {
			t.Fatalf("SetClusterID: %v", err)
		}
	}
	err := directory.SetClusterID("cluster-b")
	if !errors.Is(err, logstore.ErrOtherCluster) || !strings.Contains(err.Error(), "cluster-a") || !strings.Contains(err.Error(), "cluster-b") {
		t.Fatalf("SetClusterID of another: %v, want ErrOtherCluster naming both", err)
	}
	for range 2 {
		if err := directory.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if err := directory.SetClusterID("cluster-a"); !errors.Is(err, logstore.ErrClosed) {
		t.Fatalf("SetClusterID after Close: %v, want ErrClosed", err)
	}
	if id := claim(t, dir).ClusterID(); id != "cluster-a" {
		t.Fatalf("ClusterID after reopening = %q", id)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "instance.json"))
	if err != nil || !bytes.Equal(raw, []byte(golden(t, 2))) {
		t.Fatalf("the manifest's format changed (%v):\n%s", err, raw)
	}
}

// A build that does not know the new format must not start with the directory.
func TestAnOlderManifestIsUpgraded(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "instance.json"), golden(t, 1))
	if id := claim(t, dir).ClusterID(); id != "cluster-a" {
		t.Errorf("ClusterID = %q, want that of the older manifest", id)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "instance.json"))
	if err != nil || string(raw) != golden(t, 2) {
		t.Errorf("the manifest is, %v:\n%s", err, raw)
	}
}

func TestAClusterIDThatCannotBeWrittenIsNotSet(t *testing.T) {
	dir := t.TempDir()
	directory := claim(t, dir)
	// A directory in the place of the temporary file makes the write fail for root too.
	if err := os.Mkdir(filepath.Join(dir, "instance.json.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := directory.SetClusterID("cluster-a"); err == nil {
		t.Fatal("SetClusterID = nil, want an error")
	}
	if id := directory.ClusterID(); id != "" {
		t.Fatalf("ClusterID after a write that failed = %q, want none", id)
	}
}

func TestForgetClusterAllowsAnotherClusterID(t *testing.T) {
	dir := t.TempDir()
	directory := claim(t, dir)
	if err := directory.SetClusterID("cluster-a"); err != nil {
		t.Fatal(err)
	}
	if err := directory.ForgetCluster(); err != nil || directory.ClusterID() != "" {
		t.Fatalf("ClusterID = %q, %v", directory.ClusterID(), err)
	}
	if err := directory.Close(); err != nil {
		t.Fatal(err)
	}
	if err := directory.ForgetCluster(); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("ForgetCluster after Close: %v, want ErrClosed", err)
	}
	directory = claim(t, dir)
	if id := directory.ClusterID(); id != "" {
		t.Errorf("ClusterID after reopening = %q", id)
	}
	if err := directory.SetClusterID("cluster-b"); err != nil {
		t.Error(err)
	}
}

// If only half of the data were set aside, the other half would look damaged.
func TestLogAndSnapshotsAreSetAsideTogether(t *testing.T) {
	dir := t.TempDir()
	backend := strings.Repeat("x", 300) // too long for a file name
	directory, err := logstore.Claim(dir, logstore.Owner{RaftID: "n1", Backend: backend})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = directory.Close() }()
	if err := os.Mkdir(filepath.Join(dir, "snapshots"), 0o700); err != nil {
		t.Fatal(err)
	}
	if folder, err := directory.SetAside(time.Now()); err == nil {
		t.Errorf("SetAside moved the files to %s, want an error", folder)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if want := []string{"instance.json", "instance.lock", "snapshots"}; !slices.Equal(names, want) {
		t.Errorf("files in the directory = %q, want %q", names, want)
	}
}

func TestFoldersSetAsideByOthersAreKept(t *testing.T) {
	parent := t.TempDir()
	others := filepath.Join(parent, "n1")
	for _, name := range []string{"damaged-1", "damaged-2", "damaged-3", "damaged-4"} {
		if err := os.MkdirAll(filepath.Join(others, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	directory := claim(t, filepath.Join(parent, "n[12]"))
	defer func() { _ = directory.Close() }()
	if _, err := directory.SetAside(time.Now()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(others); err != nil || len(left) != 4 {
		t.Errorf("files in folders of others = %v, %v, want all 4", left, err)
	}
}

func TestTheLastFoldersSetAsideAreKept(t *testing.T) {
	directory := claim(t, t.TempDir())
	elsewhere := time.FixedZone("elsewhere", -5*60*60)
	begin := time.Date(2026, 2, 3, 23, 0, 0, 0, time.UTC)
	var folders []string
	for at, now := range []time.Time{begin, begin.Add(time.Hour).In(elsewhere), begin.Add(2 * time.Hour), begin.Add(3 * time.Hour).In(elsewhere), begin.Add(4 * time.Hour)} {
		write(t, filepath.Join(directory.Path(), "log.bolt"), fmt.Sprint(at))
		folder, err := directory.SetAside(now)
		if err != nil {
			t.Fatal(err)
		}
		folders = append(folders, folder)
	}
	left, err := logstore.FilesNamed(directory.Path(), "damaged-", "")
	if err != nil || !slices.Equal(left, folders[2:]) {
		t.Errorf("folders set aside = %q, %v, want %q", left, err, folders[2:])
	}
	if raw, err := os.ReadFile(filepath.Join(folders[4], "log.bolt")); err != nil || string(raw) != "4" {
		t.Errorf("log set aside = %q, %v, want 4", raw, err)
	}
	if err := directory.Close(); err != nil {
		t.Fatal(err)
	}
	if folder, err := directory.SetAside(begin.Add(5 * time.Hour)); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("SetAside after Close = %q, %v, want ErrClosed", folder, err)
	}
}
