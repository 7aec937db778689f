// Package config turns what an operator said, in flags, in environment variables
// and in a file, into one Config in which everything is decided, or into an
// error that names everything that is wrong and where it was said. It has the
// exit statuses by which the operator is told how it went.
//
// It never opens, binds or creates anything: it reads the file that --config
// names and the file that --raft_secret_file names, and that is all.
package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
)

// What Load returns when the operator wants to be told something instead of
// running an instance.
var (
	ErrHelp    = errors.New("help requested")
	ErrVersion = errors.New("version requested")
)

// Backends are the storage backends that there are to choose from.
var Backends = []string{"bolt", "badger", "wal", "memory"}

// DefaultBackend is the storage backend of a new directory, where none is given.
const DefaultBackend = "wal"

// Config is an instance as its operator wants it. Its fields are the flags of
// the same names, in which Usage says what each one means.
type Config struct {
	RaftID                string
	RaftDir               string
	RaftBindAddress       string
	RaftAdvertisedAddress string // empty: the bind address, once its port is chosen

	ApplicationBindAddress       string
	ApplicationAdvertisedAddress string // empty: the bind address, once its port is chosen

	BootstrapRaftCluster bool
	Join                 []string
	StorageBackend       string
	// StorageBackendGiven says whether somebody gave it. A directory that another
	// one wrote is no fault where nobody did.
	StorageBackendGiven bool

	LogLevel  string
	LogFormat string

	Timing          consensus.Timing
	ShutdownTimeout time.Duration

	// Secret is what --raft_secret_file holds; nil without the flag.
	Secret []byte
	// Warnings are for the log, once there is one.
	Warnings []string
}

// defaults is what holds where nothing else is said. The id of an instance has
// its default, the name of the host, only when it is needed.
func defaults() *Config {
	return &Config{
		RaftDir:                "data",
		RaftBindAddress:        "127.0.0.1:8008",
		ApplicationBindAddress: "127.0.0.1:8080",
		StorageBackend:         DefaultBackend,
		LogLevel:               "info",
		LogFormat:              "text",
		// A dead leader is replaced after one to two heartbeat timeouts and one
		// round of votes: within a second, on a network that answers in
		// milliseconds. Shorter ones would take a busy disk for a dead leader.
		// The log is cut where replaying it would take about as long as loading
		// a snapshot (sooner, by the bytes that it takes, under load), and a follower
		// may fall ten thousand writes behind before it has to be sent one, unless
		// these take more than a snapshot.
		Timing: consensus.Timing{
			HeartbeatTimeout:  300 * time.Millisecond,
			ElectionTimeout:   300 * time.Millisecond,
			SnapshotThreshold: 8192,
			SnapshotInterval:  30 * time.Second,
			TrailingLogs:      10240,
		},
		ShutdownTimeout: 10 * time.Second,
	}
}

// Load decides on args (without the program's name) and environ (as of
// os.Environ); a flag beats a variable, which beats the file, which beats the
// default. It returns ErrHelp or ErrVersion when one of these is asked for, or
// every fault that there is, joined.
func Load(args, environ []string) (Config, error) {
	config := defaults()
	flags := define(config)
	sources, faults := readSources(flags, args, environ)
	said := sayings{}
	for _, source := range sources {
		maps.Copy(said, source)
	}
	if _, asked := said[helpFlag]; asked {
		return Config{}, ErrHelp
	}
	if _, asked := said[versionFlag]; asked {
		return Config{}, ErrVersion
	}
	// What a stronger source overrules is told, too, if it is wrong: one day nothing overrules it.
	for _, source := range sources {
		faults = append(faults, source.read(define(defaults()))...)
	}
	misunderstood := map[string]bool{}
	flags.VisitAll(func(flag *pflag.Flag) { misunderstood[flag.Name] = said.set(flag) != nil })
	config.complete(said)
	for _, fault := range config.check(said) {
		// What was not understood was told above.
		if !slices.ContainsFunc(fault.settings, func(name string) bool { return misunderstood[name] }) {
			faults = append(faults, fmt.Errorf("%s: %w", said.where(fault.settings), fault.err))
		}
	}
	if len(faults) > 0 {
		return Config{}, errors.Join(faults...)
	}
	return *config, nil
}
