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
		"`id` of this instance in the raft cluster; a directory that holds data belongs to one id (default the host's name)")
	flags.StringVar(&c.RaftDir, "raft_dir", c.RaftDir,
		"`directory` for log, stable state and snapshots; created if missing, used by one process at a time")
	flags.StringVar(&c.RaftBindAddress, "raft_bind_address", c.RaftBindAddress,
		"`host:port` where raft traffic and the instance metadata API are served")
	flags.StringVar(&c.RaftAdvertisedAddress, "raft_advertised_address", c.RaftAdvertisedAddress,
		"`host:port` by which other instances reach it; a name is resolved at every dial (default the bind address)")
	flags.StringVar(&c.ApplicationBindAddress, "application_bind_address", c.ApplicationBindAddress,
		"`host:port` where the application API is served")
	flags.StringVar(&c.ApplicationAdvertisedAddress, "application_advertised_address", c.ApplicationAdvertisedAddress,
		"`host:port` that redirects and metadata name (default the bind address)")
	flags.BoolVar(&c.BootstrapRaftCluster, "bootstrap_raft_cluster", c.BootstrapRaftCluster,
		"start a new cluster of one instance when the directory holds none; otherwise it changes nothing")
	flags.StringSliceVar(&c.Join, "join", c.Join,
		"application `addresses` of instances of a cluster, which are asked until they add this one (comma separated or repeated)")
	flags.StringVar(&c.StorageBackend, "storage_backend", c.StorageBackend,
		"where the raft log and stable state live: "+strings.Join(Backends, ", ")+
			"; memory is for trials, it forgets everything at exit; a directory that another one wrote goes on with that when this is not given")
	flags.StringVar(&c.LogLevel, "log_level", c.LogLevel, strings.Join(logLevels, ", "))
	flags.StringVar(&c.LogFormat, "log_format", c.LogFormat, strings.Join(logFormats, " or "))
	flags.DurationVar(&c.Timing.HeartbeatTimeout, "raft_heartbeat_timeout", c.Timing.HeartbeatTimeout,
		"how long a follower goes without its leader before it stands for election")
	flags.DurationVar(&c.Timing.ElectionTimeout, "raft_election_timeout", c.Timing.ElectionTimeout,
		"how long a candidate waits for votes")
	flags.Uint64Var(&c.Timing.SnapshotThreshold, "raft_snapshot_threshold", c.Timing.SnapshotThreshold,
		"how many `entries` since the last snapshot are worth another one")
	flags.DurationVar(&c.Timing.SnapshotInterval, "raft_snapshot_interval", c.Timing.SnapshotInterval,
		"how often that is checked")
	flags.Uint64Var(&c.Timing.TrailingLogs, "raft_trailing_logs", c.Timing.TrailingLogs,
		"how many `entries` are kept behind a snapshot, for followers that are a little late")
	flags.String(secretFlag, "",
		"`file` with a secret of at least 16 bytes that the instances of the cluster share and prove to each other")
	flags.DurationVar(&c.ShutdownTimeout, "shutdown_timeout", c.ShutdownTimeout,
		"longest graceful stop")
	flags.String(fileFlag, "", "YAML `file` with keys that are named like these flags")
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
A first instance needs --bootstrap_raft_cluster, others --join; one that is
given neither, and has no data, waits to be added (PUT /raft/node on the leader).

Flags:
%s
Each but --help and --version can also be given as an environment variable
(--raft_id as %sRAFT_ID) or, but for --config, as a key in the
file that --config names. A flag beats a variable, which beats the file, which
beats the default.

A verb has flags of its own: see its --help.
`, verbs, define(defaults()).FlagUsagesWrapped(100), prefix)
}
