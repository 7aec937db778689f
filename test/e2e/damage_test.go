package e2e_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// needle occurs only in the data to be damaged.
const needle = "a-needle-in-the-log"

// spoil flips a bit of every byte of what, wherever it occurs in the files of i
// whose path, relative to i's directory, begins with part.
func spoil(t *testing.T, i *harness.Instance, part, what string) {
	t.Helper()
	found := false
	err := filepath.WalkDir(i.Directory, func(path string, entry fs.DirEntry, err error) error {
		within, _ := filepath.Rel(i.Directory, path)
		if err != nil || entry.IsDir() || !strings.HasPrefix(within, part) {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(what)) {
			return err
		}
		found = true
		return os.WriteFile(path, bytes.ReplaceAll(content, []byte(what), flipped(what)), 0o600)
	})
	if err == nil && !found {
		err = fmt.Errorf("no file under %q contains the data to damage", part)
	}
	if err != nil {
		t.Fatalf("%s: %v", i.ID, err)
	}
}

func flipped(what string) []byte {
	bytes := []byte(what)
	for at := range bytes {
		bytes[at] ^= 0x20
	}
	return bytes
}

func remove(t *testing.T, i *harness.Instance, part string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(i.Directory, part)); err != nil {
		t.Fatal(err)
	}
}

func setAside(t *testing.T, i *harness.Instance) []string {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join(i.Directory, "damaged-*"))
	if err != nil {
		t.Fatal(err)
	}
	return folders
}

func TestADamagedInstanceHeals(t *testing.T) {
	damages := map[string]struct {
		flags []string
		do    func(t *testing.T, i *harness.Instance, backend string)
		aside bool
	}{
		"an entry": {do: func(t *testing.T, i *harness.Instance, backend string) {
			spoil(t, i, "log."+backend, needle)
		}, aside: true},
		"the term and the vote": {do: func(t *testing.T, i *harness.Instance, backend string) {
			behind := map[string]string{"bolt": "\xc5sum", "badger": "CurrentTerm", "wal": "CurrentTerm"}
			spoil(t, i, "log."+backend, behind[backend])
		}, aside: true},
		"a missing log": {do: func(t *testing.T, i *harness.Instance, backend string) {
			remove(t, i, "log."+backend)
		}},
		"a snapshot that the log does not replace": {
			flags: []string{"--raft_snapshot_threshold=5", "--raft_snapshot_interval=50ms", "--raft_trailing_logs=1"},
			do:    func(t *testing.T, i *harness.Instance, backend string) { spoil(t, i, "snapshots", needle) },
			aside: true,
		},
	}
	for name, damage := range damages {
		for _, leads := range []bool{false, true} {
			t.Run(fmt.Sprintf("damage to %s, on the leader: %v", name, leads), func(t *testing.T) {
				t.Parallel()
				allBackends(t, func(t *testing.T, backend string) {
					c := harness.Start(t, harness.Options{Backend: backend, Flags: slices.Concat(damage.flags, calm)})
					for n := range 10 {
						put(t, c.Instances[n%3].Client, fmt.Sprintf("before-%d", n))
					}
					put(t, c.Instances[0].Client, needle)
					for n := range 30 {
						put(t, c.Instances[n%3].Client, fmt.Sprintf("after-%d", n))
					}
					victim := c.Followers()[0]
					if leads {
						victim = c.Leader()
					}
					if damage.flags != nil {
						writeUntilSnapshotsHave(t, c, victim, needle)
					}
					want := list(t, c.Instances[0].Client)
					awaitRevision(t, victim, want.Revision)
					victim.Stop()
					damage.do(t, victim, backend)
					victim.Start()
					c.AwaitReady()
					checkMembers(t, c)
					awaitRevision(t, victim, want.Revision)
					sameRegistry(t, "the registry of the damaged instance", list(t, victim.Client), want)
					checkDense(t, victim.Client)
					if folders := setAside(t, victim); (len(folders) == 1) != damage.aside {
						t.Errorf("folders set aside = %q, want one: %v", folders, damage.aside)
					}
					if damage.aside {
						awaitLog(t, victim, "the directory is damaged")
					}
				})
			})
		}
	}
}

// writeUntilSnapshotsHave writes until every snapshot of i contains what, and so
// may contain everything written before what.
func writeUntilSnapshotsHave(t *testing.T, c *harness.Cluster, i *harness.Instance, what string) {
	t.Helper()
	written := 0
	harness.Eventually(t, "the snapshots of "+i.ID+" contain the data", func() error {
		put(t, c.Instances[0].Client, fmt.Sprintf("more-%d", written))
		written++
		states, err := filepath.Glob(filepath.Join(i.Directory, "snapshots", "*", "state.bin"))
		if err != nil || len(states) < 2 {
			return fmt.Errorf("snapshots = %q, %v", states, err)
		}
		for _, path := range states {
			if content, err := os.ReadFile(path); err != nil || !bytes.Contains(content, []byte(what)) {
				return fmt.Errorf("%s does not contain the data: %v", path, err)
			}
		}
		return nil
	})
}

// No other instance has the lost data, so this one must refuse to start instead of
// going on without the data.
func TestADamagedInstanceThatIsAloneRefusesToStart(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, i *harness.Instance, backend string){
		"an entry":      func(t *testing.T, i *harness.Instance, backend string) { spoil(t, i, "log."+backend, needle) },
		"a missing log": func(t *testing.T, i *harness.Instance, backend string) { remove(t, i, "log."+backend) },
	} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, backend string) {
				i := harness.Start(t, harness.Options{Size: 1, Backend: backend, Flags: calm}).Instances[0]
				put(t, i.Client, needle)
				put(t, i.Client, "after")
				put(t, i.Client, "and-after-that")
				i.Stop()
				do(t, i, backend)
				i.Launch()
				if status := i.AwaitExit(); status != 1 {
					t.Errorf("exit status = %d, want 1", status)
				}
				for _, word := range []string{"log." + backend, "nodesmetadata storage check", "copy"} {
					if !strings.Contains(i.LastLog(), word) {
						t.Errorf("the log does not contain %q:\n%s", word, i.LastLog())
					}
				}
				if folders := setAside(t, i); len(folders) > 0 {
					t.Errorf("folders set aside = %q, want none", folders)
				}
			})
		})
	}
}
