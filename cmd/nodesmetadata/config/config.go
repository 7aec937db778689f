// Package config turns the flags, environment variables and the file that an operator
// gives into one complete Config, or into an error that names every fault and where it
// was given. It also has the exit statuses of the program.
//
// It never binds or creates anything, and reads only the files that --config and
// --raft_secret_file name.
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

// What Load returns if the operator asks for information instead of an instance.
var (
	ErrHelp    = errors.New("help requested")
	ErrVersion = errors.New("version requested")
)

// Backends are the names of the storage backends.
var Backends = []string{"bolt", "badger", "wal", "memory"}

// DefaultBackend is the storage backend of a new directory if none is given.
const DefaultBackend = "wal"

// Config is the configuration of an instance. Its fields are the flags of the same
// names; Usage says what each one means.
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
	// StorageBackendGiven says whether the operator gave StorageBackend. If not, a
	// directory that another backend wrote is no fault.
	StorageBackendGiven bool

	LogLevel  string
	LogFormat string

	Timing          consensus.Timing
	ShutdownTimeout time.Duration

	// Secret is what --raft_secret_file holds; nil without the flag.
	Secret []byte
	// Warnings are to be logged once there is a log.
	Warnings []string
}

// defaults returns the defaults. complete adds those of the id and of the advertised
// addresses.
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
		// A snapshot is taken when replaying the log would take about as long as
		// loading one (sooner under load, by the bytes that the log takes). A follower
		// may fall ten thousand writes behind before it needs a snapshot, unless these
		// writes are larger than one.
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

// Load makes a Config of args (without the program's name) and environ (as of
// os.Environ). A flag beats a variable, which beats the file, which beats the default.
// Errors: ErrHelp or ErrVersion if one of these is asked for, else all faults, joined.
func Load(args, environ []string) (Config, error) {
	config := defaults()
	flags := define(config)
	sources, faults := readSources(flags, args, environ)
	given := settings{}
	for _, source := range sources {
		maps.Copy(given, source)
	}
	if _, asked := given[helpFlag]; asked {
		return Config{}, ErrHelp
	}
	if _, asked := given[versionFlag]; asked {
		return Config{}, ErrVersion
	}
	// Report a wrong value even if a stronger source overrides it: one day it will not.
	for _, source := range sources {
		faults = append(faults, source.read(define(defaults()))...)
	}
	misunderstood := map[string]bool{}
	flags.VisitAll(func(flag *pflag.Flag) { misunderstood[flag.Name] = given.set(flag) != nil })
	config.complete(given)
	for _, fault := range config.check(given) {
		// A value that could not be parsed was reported above.
		if !slices.ContainsFunc(fault.settings, func(name string) bool { return misunderstood[name] }) {
			faults = append(faults, fmt.Errorf("%s: %w", given.where(fault.settings), fault.err))
		}
	}
	if len(faults) > 0 {
		return Config{}, errors.Join(faults...)
	}
	return *config, nil
}
