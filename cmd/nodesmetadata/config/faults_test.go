package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
)

func TestFaultsNameWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		args    []string
		environ []string
		file    string // the content; FILE in want stands for its path
		want    []string
	}{
		"an unknown flag": {args: []string{"--raft_idd=x"},
			want: []string{`unknown flag: --raft_idd`}},
		"an unknown short flag": {args: []string{"-x"},
			want: []string{`unknown flag: -x`}},
		"an unknown short flag after a value": {args: []string{"--raft_id", "a", "-x"},
			want: []string{`unknown flag: -x`}},
		"several unknown flags": {args: []string{"--one", "--raft_id=a", "--two=2"},
			want: []string{`unknown flag: --one`, `unknown flag: --two`}},
		"a flag without its value": {args: []string{"--raft_id"},
			want: []string{`flag needs an argument: --raft_id`}},
		"a stray argument": {args: []string{"--raft_id", "a", "serve"},
			want: []string{`unexpected argument: "serve"`}},
		"an unknown variable": {environ: []string{"NODESMETADATA_RAFT_IDD=x"},
			want: []string{`unknown variable: NODESMETADATA_RAFT_IDD`}},
		"variables that could be the service links of Kubernetes": {environ: []string{"NODESMETADATA_RAFT_PORT=9000", "NODESMETADATA_PORT="},
			want: []string{`unknown variable: NODESMETADATA_RAFT_PORT`, `unknown variable: NODESMETADATA_PORT`}},
		"a variable in small letters": {environ: []string{"NODESMETADATA_raft_id=x"},
			want: []string{`unknown variable: NODESMETADATA_raft_id`}},
		"a variable for help": {environ: []string{"NODESMETADATA_HELP=true"},
			want: []string{`unknown variable: NODESMETADATA_HELP`}},
		"a variable for the version": {environ: []string{"NODESMETADATA_VERSION=1.2.3"},
			want: []string{`unknown variable: NODESMETADATA_VERSION`}},
		"an unknown key": {file: "raft_id: a\nraft-dir: x\n",
			want: []string{`FILE:2: unknown key: raft-dir`}},
		"a file that names a file": {file: "config: other.yaml",
			want: []string{`FILE:1: unknown key: config`}},
		"a key twice": {file: "raft_id: a\nraft_id: b\n",
			want: []string{`FILE:2: raft_id is there twice`}},
		"a key without a value": {file: "raft_id:\n",
			want: []string{`FILE:1: raft_id has no value`}},
		"a list for a single value": {file: "raft_id: [a]\n",
			want: []string{`FILE:1: raft_id must be a single value`}},
		"a list of lists": {file: "join: [[a]]\n",
			want: []string{`FILE:1: join must be a list of single values`}},
		"a list with an entry that is empty": {file: "join:\n- a:1\n-\n",
			want: []string{`FILE:1: join must be a list of single values`}},
		"a mapping for a list": {file: "join: {a: 1}\n",
			want: []string{`FILE:1: join must be a single value`}},
		"a file that is no mapping": {file: "- a\n",
			want: []string{`FILE: is not a mapping of keys to values`}},
		"a file of one word": {file: "raft_id\n",
			want: []string{`FILE: is not a mapping of keys to values`}},
		"two documents": {file: "raft_id: a\n---\nraft_id: b\n",
			want: []string{`FILE: something follows the first YAML document`}},
		"a file that is not YAML": {file: "raft_id: {",
			want: []string{`FILE: yaml: line 1: did not find expected node content`}},
		"a missing file": {args: []string{"--config=/no/such.yaml"},
			want: []string{`--config: open /no/such.yaml: no such file or directory`}},
		"a directory": {args: []string{"--config=/"},
			want: []string{`--config: read /: is a directory`}},
		"an empty flag for a file": {args: []string{"--config="},
			want: []string{`--config: must not be empty; for no file, leave it out`}},
		"an empty variable for a file": {environ: []string{"NODESMETADATA_CONFIG="},
			want: []string{`NODESMETADATA_CONFIG: must not be empty; for no file, leave it out`}},
		"a file that never ends": {environ: []string{"NODESMETADATA_CONFIG=/dev/zero"},
			want: []string{`NODESMETADATA_CONFIG: /dev/zero is over 1048576 bytes`}},

		"a bad duration": {args: []string{"--shutdown_timeout=10"},
			want: []string{`--shutdown_timeout: "10" is not a duration such as 500ms or 30s`}},
		"a bad number": {environ: []string{"NODESMETADATA_RAFT_TRAILING_LOGS=-1"},
			want: []string{`NODESMETADATA_RAFT_TRAILING_LOGS: "-1" is not a whole number`}},
		"a bad switch": {file: "bootstrap_raft_cluster: yes",
			want: []string{`FILE:1: bootstrap_raft_cluster: "yes" is not true or false`}},
		"bad values that a flag overrides": {args: []string{"--shutdown_timeout=1s", "--log_level=info", "--log_format=text"},
			environ: []string{"NODESMETADATA_SHUTDOWN_TIMEOUT=x", "NODESMETADATA_LOG_FORMAT=xml"}, file: "raft_id: a\nlog_level: loud\n",
			want: []string{`FILE:2: log_level: "loud" is none of debug, info, warn, error`,
				`NODESMETADATA_LOG_FORMAT: "xml" is none of text, json`,
				`NODESMETADATA_SHUTDOWN_TIMEOUT: "x" is not a duration such as 500ms or 30s`}},
		"a bad value that a variable overrides": {environ: []string{"NODESMETADATA_RAFT_SNAPSHOT_THRESHOLD=8192"}, file: "raft_snapshot_threshold: lots",
			want: []string{`FILE:1: raft_snapshot_threshold: "lots" is not a whole number`}},
		"a bad value before a good one": {args: []string{"--log_level=loud", "--log_level=info"},
			want: []string{`--log_level: "loud" is none of debug, info, warn, error`}},
		"an invalid value beside a malformed one": {args: []string{"--shutdown_timeout=0s"}, environ: []string{"NODESMETADATA_SHUTDOWN_TIMEOUT=x"},
			want: []string{`NODESMETADATA_SHUTDOWN_TIMEOUT: "x" is not a duration such as 500ms or 30s`,
				`--shutdown_timeout: must be more than nothing: 0s`}},
		"a malformed value is not compared with another": {args: []string{"--raft_heartbeat_timeout=x", "--raft_election_timeout=100ms"},
			want: []string{`--raft_heartbeat_timeout: "x" is not a duration such as 500ms or 30s`}},

		"no id": {args: []string{"--raft_id="},
			want: []string{`--raft_id: must not be empty`}},
		"no directory": {args: []string{"--raft_dir="},
			want: []string{`--raft_dir: must not be empty`}},
		"no port": {args: []string{"--raft_bind_address=127.0.0.1"},
			want: []string{`--raft_bind_address: must be host:port, with an IPv6 host in brackets: "127.0.0.1"`}},
		"a port by name": {args: []string{"--raft_bind_address=127.0.0.1:http"},
			want: []string{`--raft_bind_address: needs a port from 0 to 65535: "127.0.0.1:http"`}},
		"a port with a leading zero": {args: []string{"--raft_bind_address=127.0.0.1:08008"},
			want: []string{`--raft_bind_address: needs a port from 0 to 65535: "127.0.0.1:08008"`}},
		"invalid hosts": {args: []string{"--raft_bind_address=127.0.1:8008", "--application_bind_address=[::g]:0"},
			want: []string{`--raft_bind_address: has a host that is neither a name nor an IP address: "127.0.1:8008"`,
				`--application_bind_address: has a host that is neither a name nor an IP address: "[::g]:0"`}},
		"wildcards without an advertised address": {args: []string{"--raft_bind_address=[::]:8008", "--application_bind_address=:0"},
			want: []string{
				`--raft_advertised_address: must be set to an address that others can reach, because "[::]:8008" is every interface`,
				`--application_advertised_address: must be set to an address that others can reach, because ":0" is every interface`}},
		"an advertised wildcard": {args: []string{"--raft_advertised_address=0.0.0.0:8008"},
			want: []string{`--raft_advertised_address: must name a host that others can reach, not every interface: "0.0.0.0:8008"`}},
		"an advertised port 0": {args: []string{"--application_advertised_address=a:0"},
			want: []string{`--application_advertised_address: needs a port from 1 to 65535: "a:0"`}},
		"one address for both": {args: []string{"--raft_bind_address=127.0.0.1:8080"},
			want: []string{`--raft_bind_address, --application_bind_address: can't both be "127.0.0.1:8080"`}},
		"one advertised address for both": {args: []string{"--raft_advertised_address=n1:80"}, environ: []string{"NODESMETADATA_APPLICATION_ADVERTISED_ADDRESS=n1:80"},
			want: []string{`--raft_advertised_address, NODESMETADATA_APPLICATION_ADVERTISED_ADDRESS: can't both be "n1:80"`}},
		"an address that is bound is advertised for the other": {args: []string{"--application_advertised_address=127.0.0.1:8008"},
			want: []string{`--raft_advertised_address, --application_advertised_address: can't both be "127.0.0.1:8008"`}},
		"an invalid address to join": {args: []string{"--join", "n1:8080,n2"},
			want: []string{`--join: must be host:port, with an IPv6 host in brackets: "n2"`}},
		"a URL to join": {environ: []string{"NODESMETADATA_JOIN=http://n1:8080"},
			want: []string{`NODESMETADATA_JOIN: must be host:port, with an IPv6 host in brackets: "http://n1:8080"`}},
		"a list of two lines": {args: []string{"--join=a:1\nb:2"}, environ: []string{"NODESMETADATA_JOIN=a:1\rb:2"}, file: "join: |\n  a:1,\n  b:2\n",
			want: []string{
				`FILE:1: join: "a:1,\nb:2\n" is more than one line`,
				`NODESMETADATA_JOIN: "a:1\rb:2" is more than one line`,
				`--join: "a:1\nb:2" is more than one line`}},
		"bootstrapping and joining": {args: []string{"--bootstrap_raft_cluster", "--join=n1:8080"},
			want: []string{`--bootstrap_raft_cluster, --join: an instance starts a cluster or joins one, not both`}},
		"an unknown backend": {args: []string{"--storage_backend=tape"},
			want: []string{`--storage_backend: "tape" is none of bolt, badger, wal, memory`}},
		"an unknown level and an unknown format": {args: []string{"--log_level=INFO", "--log_format=xml"},
			want: []string{`--log_level: "INFO" is none of debug, info, warn, error`, `--log_format: "xml" is none of text, json`}},
		"a secret that is too short": {file: "raft_secret_file: SECRET",
			want: []string{`FILE:1: raft_secret_file: SECRET holds 5 bytes; a secret has at least 16`}},
		"a missing secret file": {args: []string{"--raft_secret_file=/no/such"},
			want: []string{`--raft_secret_file: open /no/such: no such file or directory`}},
		"an empty flag for a secret": {args: []string{"--raft_secret_file="},
			want: []string{`--raft_secret_file: must not be empty; for a cluster without a secret, leave it out`}},
		"an empty variable for a secret": {environ: []string{"NODESMETADATA_RAFT_SECRET_FILE="},
			want: []string{`NODESMETADATA_RAFT_SECRET_FILE: must not be empty; for a cluster without a secret, leave it out`}},
		"an empty key for a secret": {file: `raft_secret_file: ""`,
			want: []string{`FILE:1: raft_secret_file: must not be empty; for a cluster without a secret, leave it out`}},
		"raft timing that does not fit together": {args: []string{"--raft_heartbeat_timeout=2s", "--raft_snapshot_threshold=0"},
			want: []string{`--raft_heartbeat_timeout, --raft_election_timeout, --raft_snapshot_threshold, --raft_snapshot_interval: ` +
				`election timeout 300ms is under the heartbeat timeout 2s; snapshot threshold is 0`}},

		"faults in every source": {
			args: []string{"--raft_id=-", "--nope", "stray"}, environ: []string{"NODESMETADATA_LOG_LEVEL=loud", "NODESMETADATA_X="}, file: "y: z",
			want: []string{`unknown flag: --nope`, `unexpected argument: "stray"`, `unknown variable: NODESMETADATA_X`,
				`FILE:1: unknown key: y`, `NODESMETADATA_LOG_LEVEL: "loud" is none of debug, info, warn, error`,
				`--raft_id: must begin with a letter or a digit: "-"`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.file != "" {
				secret := file(t, "short")
				path := file(t, strings.ReplaceAll(test.file, "SECRET", secret))
				test.args = append(slices.Clone(test.args), "--config", path)
				for i := range test.want {
					test.want[i] = strings.NewReplacer("FILE", path, "SECRET", secret).Replace(test.want[i])
				}
			}
			_, err := config.Load(test.args, test.environ)
			if want := strings.Join(test.want, "\n"); err == nil || err.Error() != want {
				t.Errorf("error =\n%v\nwant\n%s", err, want)
			}
		})
	}
}

func TestUsageNamesTheBackendsThatThereAre(t *testing.T) {
	if usage := config.Usage(""); !strings.Contains(usage, "bolt, badger, wal, memory") {
		t.Errorf("usage does not list the backends:\n%s", usage)
	}
}
