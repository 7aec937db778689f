package e2e_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestInvalidSettingsAreRefused(t *testing.T) {
	file := func(content string) func(t *testing.T) []string {
		return func(t *testing.T) []string {
			t.Helper()
			path := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"--config=" + path}
		}
	}
	flags := func(flags ...string) func(*testing.T) []string {
		return func(*testing.T) []string { return flags }
	}
	tests := map[string]struct {
		flags   func(t *testing.T) []string
		environ string
		want    string // what standard error must contain
	}{
		"an unknown flag":                       {flags: flags("--raft_idd=x"), want: "--raft_idd"},
		"an unknown short flag":                 {flags: flags("-x"), want: "-x"},
		"an unknown variable":                   {flags: flags(), environ: "NODESMETADATA_RAFT_IDD=x", want: "NODESMETADATA_RAFT_IDD"},
		"a bad value of a variable":             {flags: flags(), environ: "NODESMETADATA_LOG_LEVEL=loud", want: "NODESMETADATA_LOG_LEVEL"},
		"an unknown key":                        {flags: file("raft_idd: x\n"), want: "raft_idd"},
		"a bad value of a key":                  {flags: file("storage_backend: sqlite\n"), want: "sqlite"},
		"a file that is no YAML":                {flags: file("raft_id: [\n"), want: "config.yaml"},
		"a file that does not exist":            {flags: flags("--config=/no/such/file.yaml"), want: "/no/such/file.yaml"},
		"a stray argument":                      {flags: flags("serve"), want: `"serve"`},
		"an unknown backend":                    {flags: flags("--storage_backend=sqlite"), want: "--storage_backend"},
		"an unknown log level":                  {flags: flags("--log_level=loud"), want: "--log_level"},
		"a duration without a unit":             {flags: flags("--shutdown_timeout=10"), want: "--shutdown_timeout"},
		"an election timeout that is too short": {flags: flags("--raft_heartbeat_timeout=2s", "--raft_election_timeout=1s"), want: "--raft_election_timeout"},
		"an address without a port":             {flags: flags("--raft_bind_address=127.0.0.1"), want: "--raft_bind_address"},
		"an id with a slash":                    {flags: flags("--raft_id=a/b"), want: "--raft_id"},
		"a wildcard that is advertised":         {flags: flags("--raft_advertised_address=0.0.0.0:8008"), want: "--raft_advertised_address"},
		"an IPv6 wildcard that is advertised":   {flags: flags("--application_advertised_address=[::]:8080"), want: "--application_advertised_address"},
		"a wildcard, and nothing advertised":    {flags: flags("--application_bind_address=:8080"), want: "--application_advertised_address"},
		"both a new cluster and one to join":    {flags: flags("--bootstrap_raft_cluster", "--join=127.0.0.1:1"), want: "--join"},
		"a secret file that does not exist":     {flags: flags("--raft_secret_file=/no/such/secret"), want: "/no/such/secret"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			directory := filepath.Join(t.TempDir(), "data")
			args := append([]string{"--raft_dir=" + directory}, test.flags(t)...)
			var environ []string
			if test.environ != "" {
				environ = append(environ, test.environ)
			}
			result := harness.Run(t, environ, args...)
			if result.Status != 2 || !strings.Contains(result.Stderr, test.want) || result.Stdout != "" {
				t.Errorf("status %d, want 2 and %q; stdout %q, stderr:\n%s", result.Status, test.want, result.Stdout, result.Stderr)
			}
			if _, err := os.Lstat(directory); !os.IsNotExist(err) {
				t.Errorf("Lstat of the directory = %v, want that it was not created", err)
			}
		})
	}
}

func TestAllInvalidSettingsAreReportedAtOnce(t *testing.T) {
	result := harness.Run(t, []string{"NODESMETADATA_NONSENSE=1"}, "--storage_backend=sqlite", "--what=1", "stray", "--log_format=xml")
	for _, want := range []string{"NODESMETADATA_NONSENSE", "sqlite", "--what", `"stray"`, "xml"} {
		if !strings.Contains(result.Stderr, want) {
			t.Errorf("stderr does not contain %s:\n%s", want, result.Stderr)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	help := harness.Run(t, nil, "--help")
	if help.Status != 0 || !strings.Contains(help.Stdout, "--raft_id") || help.Stderr != "" {
		t.Errorf("--help = %+v, want status 0 and the flags on stdout", help)
	}
	for _, args := range [][]string{{"--version"}, {"version"}} {
		version := harness.Run(t, nil, args...)
		if version.Status != 0 || !strings.HasPrefix(version.Stdout, "nodesmetadata ") {
			t.Errorf("%s = %+v, want status 0 and the version", args, version)
		}
	}
}

func TestADirectoryOrPortOfAnotherInstanceIsRefused(t *testing.T) {
	eachBackend(t, func(t *testing.T, backend string) {
		c := harness.Start(t, harness.Options{Size: 1, Backend: backend})
		i := c.Instances[0]
		put(t, i.Client, "a")
		refused := func(what string, wants ...string) func(args ...string) {
			return func(args ...string) {
				t.Helper()
				result := harness.Run(t, nil, args...)
				// Quotes are escaped in a line of the log.
				log := strings.ReplaceAll(result.Stderr, `\"`, `"`)
				for _, want := range wants {
					if result.Status != 1 || !strings.Contains(log, want) {
						t.Errorf("%s: status %d, want 1 and %s:\n%s", what, result.Status, want, log)
					}
				}
			}
		}
		elsewhere := []string{
			"--raft_bind_address=" + harness.Address(t, "127.0.0.1"),
			"--application_bind_address=" + harness.Address(t, "127.0.0.1"),
		}
		args := func(more ...string) []string { return append(append([]string{}, elsewhere...), more...) }
		here := "--raft_dir=" + i.Directory

		refused("a second process on a directory", "in use by another instance", i.Directory)(
			args(here, "--raft_id="+i.ID, "--storage_backend="+backend)...)
		refused("a raft port that is taken", "address already in use", i.RaftBind)(
			args("--raft_dir="+t.TempDir(), "--raft_id=x", "--raft_bind_address="+i.RaftBind)...)
		refused("an application port that is taken", "address already in use", i.Application)(
			args("--raft_dir="+t.TempDir(), "--raft_id=x", "--application_bind_address="+i.Application)...)
		if _, err := i.Get(t.Context(), "a"); err != nil {
			t.Errorf("read from the instance that started first: %v", err)
		}
		i.Stop()

		other := map[string]string{"bolt": "badger", "badger": "wal", "wal": "bolt"}[backend]
		refused("another backend", `"`+other+`"`, `"`+backend+`"`, "nodesmetadata storage migrate")(
			args(here, "--raft_id="+i.ID, "--storage_backend="+other)...)
		refused("another raft id", `"other"`, `"`+i.ID+`"`)(
			args(here, "--raft_id=other", "--storage_backend="+backend)...)
		i.Start()
		i.AwaitReady()
		if _, err := i.Get(t.Context(), "a"); err != nil {
			t.Errorf("read after the directory was refused to others: %v", err)
		}
	})
}

func TestAnAdvertisedAddressMayBeAName(t *testing.T) {
	c := harness.New(t, harness.Options{Size: 2, Flags: calm})
	for _, i := range c.Instances {
		_, port, err := net.SplitHostPort(i.RaftBind)
		if err != nil {
			t.Fatal(err)
		}
		i.RaftAddress = net.JoinHostPort("localhost", port)
	}
	c.Bootstrap()
	checkMembers(t, c)
	put(t, c.Followers()[0].Client, "a")
}

func TestAFlagOverridesAVariableAndAVariableTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	content := "raft_heartbeat_timeout: 111ms\nraft_election_timeout: 111s\nlog_level: error\nraft_id: from-file\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	c := harness.New(t, harness.Options{Size: 1,
		Flags: []string{"--config=" + file, "--log_level=debug", "--bootstrap_raft_cluster"},
		Env:   []string{"NODESMETADATA_RAFT_ELECTION_TIMEOUT=333ms", "NODESMETADATA_LOG_LEVEL=warn"},
	})
	c.Instances[0].Start()
	c.Instances[0].AwaitReady()
	if log := c.Instances[0].Log(); !strings.Contains(log, "level=DEBUG") || !strings.Contains(log, "raft_id=n1 ") {
		t.Errorf("the log does not contain level=DEBUG and raft_id=n1:\n%s", log)
	}
}
