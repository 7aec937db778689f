package config_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "given.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, args ...string) config.Config {
	t.Helper()
	got, err := config.Load(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestDefaults(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		RaftID:                       host,
		RaftDir:                      "data",
		RaftBindAddress:              "127.0.0.1:8008",
		RaftAdvertisedAddress:        "127.0.0.1:8008",
		ApplicationBindAddress:       "127.0.0.1:8080",
		ApplicationAdvertisedAddress: "127.0.0.1:8080",
		StorageBackend:               "wal",
		LogLevel:                     "info",
		LogFormat:                    "text",
		Timing: consensus.Timing{
			HeartbeatTimeout:  300 * time.Millisecond,
			ElectionTimeout:   300 * time.Millisecond,
			SnapshotThreshold: 8192,
			SnapshotInterval:  30 * time.Second,
			TrailingLogs:      10240,
		},
		ShutdownTimeout: 10 * time.Second,
	}
	if got := load(t); !reflect.DeepEqual(got, want) {
		t.Errorf("config = %+v\nwant     %+v", got, want)
	}
}

// everySetting has a value other than the default for every setting but raft_secret_file, which
// needs a file that exists.
var everySetting = map[string]string{
	"raft_id":                        "n7",
	"raft_dir":                       "/var/lib/nodesmetadata",
	"raft_bind_address":              "[::1]:9008",
	"raft_advertised_address":        "n7.example:9008",
	"application_bind_address":       ":9080",
	"application_advertised_address": "10.0.0.7:80",
	"join":                           "n1.example:8080,n2.example:8080",
	"bootstrap_raft_cluster":         "false",
	"storage_backend":                "badger",
	"log_level":                      "warn",
	"log_format":                     "json",
	"raft_heartbeat_timeout":         "700ms",
	"raft_election_timeout":          "1s",
	"raft_snapshot_threshold":        "5",
	"raft_snapshot_interval":         "2m",
	"raft_trailing_logs":             "6",
	"shutdown_timeout":               "3s",
}

func TestEverySettingCanBeGivenInEverySource(t *testing.T) {
	want := config.Config{
		RaftID:                       "n7",
		RaftDir:                      "/var/lib/nodesmetadata",
		RaftBindAddress:              "[::1]:9008",
		RaftAdvertisedAddress:        "n7.example:9008",
		ApplicationBindAddress:       ":9080",
		ApplicationAdvertisedAddress: "10.0.0.7:80",
		Join:                         []string{"n1.example:8080", "n2.example:8080"},
		StorageBackend:               "badger",
		StorageBackendGiven:          true,
		LogLevel:                     "warn",
		LogFormat:                    "json",
		Timing: consensus.Timing{
			HeartbeatTimeout:  700 * time.Millisecond,
			ElectionTimeout:   time.Second,
			SnapshotThreshold: 5,
			SnapshotInterval:  2 * time.Minute,
			TrailingLogs:      6,
		},
		ShutdownTimeout: 3 * time.Second,
		Secret:          []byte("sixteen bytes ok"),
	}
	settings := maps.Clone(everySetting)
	settings["raft_secret_file"] = file(t, string(want.Secret))
	var args, environ []string
	var yaml strings.Builder
	for name, value := range settings {
		args = append(args, "--"+name+"="+value)
		environ = append(environ, "NODESMETADATA_"+strings.ToUpper(name)+"="+value)
		yaml.WriteString(name + ": \"" + value + "\"\n")
	}
	path := file(t, yaml.String())
	sources := map[string]struct{ args, environ []string }{
		"flags":                      {args: args},
		"variables":                  {environ: environ},
		"a file named by a flag":     {args: []string{"--config", path}},
		"a file named by a variable": {environ: []string{"NODESMETADATA_CONFIG=" + path}},
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			got, err := config.Load(source.args, source.environ)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("config = %+v\nwant     %+v", got, want)
			}
		})
	}
	for line := range strings.Lines(config.Usage("")) {
		name, isFlag := strings.CutPrefix(strings.TrimSpace(line), "--")
		name = name[:strings.IndexAny(name+" ", " [")]
		if _, tested := settings[name]; isFlag && !tested && !slices.Contains([]string{"config", "version"}, name) {
			t.Errorf("this test does not know --%s", name)
		}
	}
}

func TestAFlagBeatsAVariableBeatsTheFile(t *testing.T) {
	path := file(t, "raft_id: file\nraft_dir: file\nlog_level: warn\njoin: [file:1]\n")
	args := []string{"--config", path, "--raft_id", "flag", "--join", "flag:1", "--join=flag:2,flag:3"}
	environ := []string{"NODESMETADATA_RAFT_ID=variable", "NODESMETADATA_RAFT_DIR=variable", "NODESMETADATA_JOIN=variable:1"}
	got, err := config.Load(args, environ)
	if err != nil {
		t.Fatal(err)
	}
	if got.RaftID != "flag" || got.RaftDir != "variable" || got.LogLevel != "warn" {
		t.Errorf("config = %+v, want raft_id of the flag, raft_dir of the variable and log_level of the file", got)
	}
	if want := []string{"flag:1", "flag:2", "flag:3"}; !slices.Equal(got.Join, want) {
		t.Errorf("join = %q, want %q", got.Join, want)
	}
}

func TestSourcesThatAreUnderstood(t *testing.T) {
	tests := map[string]struct {
		args    []string
		environ []string
		file    string
		got     func(config.Config) any
		want    any
	}{
		"a flag and its value as two arguments": {args: []string{"--raft_id", "n1"},
			got: func(c config.Config) any { return c.RaftID }, want: "n1"},
		"a switch without a value": {args: []string{"--bootstrap_raft_cluster"},
			got: func(c config.Config) any { return c.BootstrapRaftCluster }, want: true},
		"the last of two equal flags": {args: []string{"--raft_id=a", "--raft_id=b"},
			got: func(c config.Config) any { return c.RaftID }, want: "b"},
		"a list with spaces": {args: []string{"--join", "a:1, b:2"},
			got: func(c config.Config) any { return c.Join }, want: []string{"a:1", "b:2"}},
		"a list in a file, as one word": {file: "join: a:1,b:2",
			got: func(c config.Config) any { return c.Join }, want: []string{"a:1", "b:2"}},
		"a list in a file, as one line": {file: "join: |\n  a:1,b:2\n",
			got: func(c config.Config) any { return c.Join }, want: []string{"a:1", "b:2"}},
		"a list in a file": {file: "join: [a:1, b:2]",
			got: func(c config.Config) any { return c.Join }, want: []string{"a:1", "b:2"}},
		"types of YAML": {file: "bootstrap_raft_cluster: true\nraft_trailing_logs: 12 # entries\n",
			got: func(c config.Config) any { return []any{c.BootstrapRaftCluster, c.Timing.TrailingLogs} }, want: []any{true, uint64(12)}},
		"an id of digits in a file is a string": {file: "raft_id: 007",
			got: func(c config.Config) any { return c.RaftID }, want: "007"},
		"an empty file": {args: []string{"--config", os.DevNull},
			got: func(c config.Config) any { return c.RaftDir }, want: "data"},
		"a file of comments": {file: "# raft_dir: x\n---\n",
			got: func(c config.Config) any { return c.RaftDir }, want: "data"},
		"variables of other programs": {environ: []string{"HOME=/", "NODES=1", "nodesmetadata_raft_id=x"},
			got: func(c config.Config) any { return c.RaftDir }, want: "data"},
		"service links of Kubernetes": {environ: []string{
			"NODESMETADATA_SERVICE_HOST=10.3.0.1", "NODESMETADATA_SERVICE_PORT=8080", "NODESMETADATA_SERVICE_PORT_HTTP=8080",
			"NODESMETADATA_PORT=tcp://10.3.0.1:8080", "NODESMETADATA_HEADLESS_PORT=udp://10.3.0.2:53", "NODESMETADATA_PORT_8080_TCP=tcp://10.3.0.1:8080",
			"NODESMETADATA_PORT_8080_TCP_PROTO=tcp", "NODESMETADATA_PORT_8080_TCP_PORT=8080",
			"NODESMETADATA_PORT_8080_TCP_ADDR=10.3.0.1", "NODESMETADATA_HEADLESS_SERVICE_HOST=10.3.0.2"},
			got: func(c config.Config) any { return c.RaftDir }, want: "data"},
		"port 0 is chosen when it is bound": {args: []string{"--raft_bind_address=127.0.0.1:0", "--application_bind_address=127.0.0.1:0"},
			got: func(c config.Config) any { return c.RaftAdvertisedAddress + c.ApplicationAdvertisedAddress }, want: ""},
		"a wildcard with an advertised address": {args: []string{"--raft_bind_address=0.0.0.0:8008", "--raft_advertised_address=n1:8008"},
			got: func(c config.Config) any { return c.RaftAdvertisedAddress }, want: "n1:8008"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.file != "" {
				test.args = append(test.args, "--config", file(t, test.file))
			}
			config, err := config.Load(test.args, test.environ)
			if err != nil {
				t.Fatal(err)
			}
			if got := test.got(config); !reflect.DeepEqual(got, test.want) {
				t.Errorf("setting = %v, want %v", got, test.want)
			}
		})
	}
}

func TestHelpAndVersionComeFirst(t *testing.T) {
	for want, args := range map[error][]string{
		config.ErrHelp:    {"--log_level=x", "--no_such", "-hx"},
		config.ErrVersion: {"--version", "stray"},
	} {
		if _, err := config.Load(args, nil); !errors.Is(err, want) {
			t.Errorf("%q: error = %v, want %v", args, err, want)
		}
	}
}

func TestASecretIsReadWithoutItsLastNewline(t *testing.T) {
	const secret = "sixteen bytes ok"
	for name, content := range map[string]string{
		"without a newline":         secret,
		"with a newline":            secret + "\n",
		"with a newline of Windows": secret + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := load(t, "--raft_secret_file", file(t, content))
			if string(got.Secret) != secret || len(got.Warnings) > 0 {
				t.Errorf("secret = %q, warnings = %q, want %q and none", got.Secret, got.Warnings, secret)
			}
		})
	}
}

func TestASecretThatAnybodyCanReadIsWarnedOf(t *testing.T) {
	path := file(t, "sixteen bytes ok")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	got := load(t, "--raft_secret_file", path)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], path) {
		t.Errorf("warnings = %q, want one naming %s", got.Warnings, path)
	}
}
