package config

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// The flags without a variable and a key, except that a variable may name the file.
const (
	fileFlag    = "config"
	helpFlag    = "help"
	versionFlag = "version"
)

// secretFlag names a file. Config has only its content.
const secretFlag = "raft_secret_file"

// define returns the flags, in the order in which Usage shows them. They set the fields of
// c, whose present values are their defaults.
func define(c *Config) *pflag.FlagSet {
	flags := pflag.NewFlagSet("nodesmetadata", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}

	flags.StringVar(&c.RaftID, "raft_id", c.RaftID,
		"`id` of this instance in the raft cluster; a directory that holds data belongs to one id (default the host name)")
	flags.StringVar(&c.RaftDir, "raft_dir", c.RaftDir,
		"`directory` for log, stable state and snapshots; created if missing, used by one process at a time")
	flags.StringVar(&c.RaftBindAddress, "raft_bind_address", c.RaftBindAddress,
		"`host:port` where raft traffic and the instance metadata API are served")
	flags.StringVar(&c.RaftAdvertisedAddress, "raft_advertised_address", c.RaftAdvertisedAddress,
		"`host:port` at which other instances reach this one; a host name is resolved on every dial (default the bind address)")
	flags.StringVar(&c.ApplicationBindAddress, "application_bind_address", c.ApplicationBindAddress,
		"`host:port` where the application API is served")
	flags.StringVar(&c.ApplicationAdvertisedAddress, "application_advertised_address", c.ApplicationAdvertisedAddress,
		"`host:port` that redirects and metadata give to clients (default the bind address)")
	flags.BoolVar(&c.BootstrapRaftCluster, "bootstrap_raft_cluster", c.BootstrapRaftCluster,
		"start a new cluster of one instance if the directory holds none; otherwise this has no effect")
	flags.StringSliceVar(&c.Join, "join", c.Join,
		"application `addresses` of instances of a cluster to join; they are asked until they add this instance (comma-separated or repeated)")
	flags.StringVar(&c.StorageBackend, "storage_backend", c.StorageBackend,
		strings.Join(Backends, ", ")+
			": where the raft log is stored; memory is for trials, and loses everything at exit; if not given, an existing directory keeps the backend that wrote it")
	flags.StringVar(&c.LogLevel, "log_level", c.LogLevel, strings.Join(logLevels, ", "))
	flags.StringVar(&c.LogFormat, "log_format", c.LogFormat, strings.Join(logFormats, " or "))
	flags.DurationVar(&c.Timing.HeartbeatTimeout, "raft_heartbeat_timeout", c.Timing.HeartbeatTimeout,
		"how long a follower goes without hearing from the leader before it stands for election")
	flags.DurationVar(&c.Timing.ElectionTimeout, "raft_election_timeout", c.Timing.ElectionTimeout,
		"how long a candidate waits for votes")
	flags.Uint64Var(&c.Timing.SnapshotThreshold, "raft_snapshot_threshold", c.Timing.SnapshotThreshold,
		"how many `entries` since the last snapshot trigger another one")
	flags.DurationVar(&c.Timing.SnapshotInterval, "raft_snapshot_interval", c.Timing.SnapshotInterval,
		"how often that threshold is checked")
	flags.Uint64Var(&c.Timing.TrailingLogs, "raft_trailing_logs", c.Timing.TrailingLogs,
		"how many `entries` are kept in the log after a snapshot, for followers that lag")
	flags.String(secretFlag, "",
		"`file` with a secret of at least 16 bytes; instances prove to each other that they know it")
	flags.DurationVar(&c.ShutdownTimeout, "shutdown_timeout", c.ShutdownTimeout,
		"maximum duration of a graceful stop")
	flags.String(fileFlag, "", "YAML `file` whose keys are the names of these flags")
	flags.BoolFuncP(helpFlag, "h", "print this and exit", nothing)
	flags.BoolFunc(versionFlag, "print the version and exit", nothing)
	return flags
}

// nothing is the setter of a flag that only asks for information.
func nothing(string) error { return nil }

// Usage returns the text of --help. verbs are the lines about the other verbs.
func Usage(verbs string) string {
	return fmt.Sprintf(`nodesmetadata keeps the set of nodes of a distributed cache in a small raft
cluster, and serves it over HTTP.

Usage:
  nodesmetadata [flags]          run an instance
  nodesmetadata version          print the version
%s
The first instance of a cluster needs --bootstrap_raft_cluster, the others need --join.
An instance that has no data and is given neither waits to be added
(PUT /raft/node on the leader).

Flags:
%s
Every flag except --help and --version can also be given as an environment
variable (--raft_id as %sRAFT_ID) and, except --config, as a key
of the file that --config names. A flag overrides a variable, a variable
overrides the file, and the file overrides the default.

The other commands have flags of their own: see their --help.
`, verbs, define(defaults()).FlagUsagesWrapped(100), prefix)
}
