package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// offline runs a subcommand, and fails the test unless it succeeds and warns of
// nothing but a snapshot that was in progress when its instance was killed.
func offline(t *testing.T, args ...string) string {
	t.Helper()
	result := harness.Run(t, nil, args...)
	complaints := ""
	for line := range strings.Lines(result.Stderr) {
		if !strings.Contains(line, " is what is left of a snapshot, and not in use") {
			complaints += line
		}
	}
	if result.Status != 0 || complaints != "" {
		t.Fatalf("%q: status %d, stdout:\n%s\nstderr:\n%s", args, result.Status, result.Stdout, result.Stderr)
	}
	return result.Stdout
}

// A cluster loses two of three instances for good. The remaining one is inspected,
// recovered, migrated to the other storage backend, and joined by new instances.
func TestAClusterIsRecoveredAfterItsMajorityIsLost(t *testing.T) {
	allBackends(t, func(t *testing.T, backend string) {
		c := harness.New(t, harness.Options{Size: 4, Backend: backend, Flags: append([]string{"--raft_snapshot_threshold=20", "--raft_snapshot_interval=50ms", "--raft_trailing_logs=10"}, calm...)})
		fresh := c.Instances[3]
		c.Instances = c.Instances[:3]
		c.Bootstrap()
		for n := range 60 {
			put(t, c.Instances[0].Client, fmt.Sprintf("node-%d", n))
		}
		left := c.Instances[2]
		here := "--raft_dir=" + left.Directory
		if busy := harness.Run(t, nil, "storage", "check", here); busy.Status != 1 || !strings.Contains(busy.Stderr, "in use by another instance") {
			t.Errorf("storage check of a running instance = %+v, want status 1 and \"in use by another instance\"", busy)
		}
		want := list(t, c.Instances[0].Client)
		harness.Eventually(t, "the instance that will be left has every write", func() error {
			_, err := left.Do(t.Context(), "GET", fmt.Sprintf("/nodes?consistency=stale&min_revision=%d", want.Revision), nil)
			return err
		})
		for _, i := range c.Instances {
			i.Kill()
		}

		report := offline(t, "storage", "check", here)
		for _, words := range []string{"n1=", "n2=", "n3=" + left.RaftAddress, "revision 60, 60 nodes", "no damage was found"} {
			if !strings.Contains(report, words) {
				t.Errorf("the report does not say %q:\n%s", words, report)
			}
		}
		recoverArgs := []string{"recover", here, "--instance=n3=" + left.RaftAddress}
		if said := offline(t, recoverArgs...); !strings.Contains(said, "Done: revision 60, 60 nodes.") {
			t.Errorf("recover did not report revision 60 and 60 nodes:\n%s", said)
		}
		if said := offline(t, recoverArgs...); !strings.Contains(said, "nothing to do") {
			t.Errorf("the second recover did not report that there is nothing to do:\n%s", said)
		}
		other := map[string]string{"bolt": "badger", "badger": "wal", "wal": "bolt"}[backend]
		offline(t, "storage", "migrate", "--from="+backend, "--to="+other, here)
		if report := offline(t, "storage", "check", here); strings.Contains(report, "n1=") || !strings.Contains(report, other) {
			t.Errorf("report after recovery and migration, want the backend %s and no n1:\n%s", other, report)
		}

		left.Flags = append(left.Flags, "--storage_backend="+other)
		left.Start()
		left.AwaitReady()
		sameRegistry(t, "the registry of the recovered instance", list(t, left.Client), want)
		put(t, left.Client, "later")
		fresh.Flags = append(fresh.Flags, "--join="+left.Application)
		fresh.Start()
		fresh.AwaitReady()
		want = list(t, left.Client)
		put(t, fresh.Client, "last")
		left.Stop()
		left.Start()
		left.AwaitReady()
		fresh.AwaitReady()
		if got := list(t, fresh.Client); got.Revision != want.Revision+1 {
			t.Errorf("revision in the end = %d, want %d", got.Revision, want.Revision+1)
		}
	})
}

func TestVerbsRefuseUnknownArguments(t *testing.T) {
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"storage", "vacuum"}, `unknown command: "storage vacuum"`},
		{[]string{"storage", "check", "--raft_dir=/no/such", "--deep"}, "unknown flag: --deep"},
		{[]string{"recover", "--raft_dir=/no/such", "--instance=n1"}, `"n1" is not id=address`},
	} {
		if result := harness.Run(t, nil, test.args...); result.Status != 2 || !strings.Contains(result.Stderr, test.says) || result.Stdout != "" {
			t.Errorf("%q = %+v, want status 2 and %q on stderr", test.args, result, test.says)
		}
	}
	if help := harness.Run(t, nil, "recover", "--help"); help.Status != 0 || !strings.Contains(help.Stdout, "--instance id=address") {
		t.Errorf("recover --help = %+v, want status 0 and the flags on stdout", help)
	}
}
