package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/ports"
)

// What the zero values of a Config mean.
const (
	DefaultRequestTimeout = 5 * time.Second
	DefaultHeaderTimeout  = 5 * time.Second
	DefaultIdleTimeout    = 2 * time.Minute
	DefaultKeepAlive      = 15 * time.Second
	DefaultStalledTimeout = 30 * time.Second
	DefaultMaxBodyBytes   = 1 << 20
	DefaultMaxNewcomers   = 256
)

// longestTimeout bounds Config.RequestTimeout, and how long a header may take to arrive.
const longestTimeout = 10 * time.Second

// writeGrace is how long a response may go on being written after the time to
// decide it is over.
const writeGrace = 5 * time.Second

// maxHeaderBytes is far more than the calls of this API need, and little enough
// for many connections at once.
const maxHeaderBytes = 16 << 10

// Config is what a Server needs.
type Config struct {
	// BindAddress is host:port, and must be given; Open fails where it is not that.
	// The host may be empty for every address of the machine; port 0 takes a free
	// one: see Server.Addr.
	BindAddress string

	// Nodes, Leases, Backups, Cluster, Locator and Local must be given.
	Nodes   ports.Nodes
	Leases  ports.Leases
	Backups ports.Backups
	Cluster ports.Cluster
	Locator ports.LeaderLocator
	Local   ports.Local

	// Joining may be nil where nobody is asked for membership.
	Joining ports.Joining

	// Metrics is where the server's metrics are registered, and what /metrics
	// shows. Nil: a registry of its own.
	Metrics *prometheus.Registry

	// Version is what /version says of the build.
	Version string

	// Logger is told about faults of this program, once each, and about what
	// net/http complains of. Nil logs nothing.
	Logger *slog.Logger

	// RequestTimeout bounds how long a request may take to be decided, beside the time
	// that it asks to wait, and a restore aside; writing the response may take 5 s more,
	// a backup as long as it goes on being taken. Zero means DefaultRequestTimeout; at
	// most 10 s.
	RequestTimeout time.Duration

	// HeaderTimeout bounds how long the header of a request may take to arrive;
	// header and body together have RequestTimeout and 2.5 s more. Zero means
	// DefaultHeaderTimeout; less than 10 s.
	HeaderTimeout time.Duration

	// IdleTimeout is how long a connection is kept between requests. Zero means
	// DefaultIdleTimeout.
	IdleTimeout time.Duration

	// KeepAlive is the longest silence on a stream. Zero means DefaultKeepAlive.
	KeepAlive time.Duration

	// StalledTimeout is how long the socket of a stream, or of who takes a backup,
	// may take nothing before it is disconnected. Zero means DefaultStalledTimeout.
	StalledTimeout time.Duration

	// MaxBodyBytes is the longest body that is read, a restore's aside. Zero means
	// DefaultMaxBodyBytes.
	MaxBodyBytes int64

	// MaxNewcomers is how many connections may be open that have not asked for
	// anything yet. When there are more, the oldest gives way. Zero means
	// DefaultMaxNewcomers.
	MaxNewcomers int

	// MaxConnections is how many connections may be open, at least two; those that
	// come when there are as many are closed at once, and not more than half of them
	// may have asked for nothing yet. Zero: any number.
	MaxConnections int
}

// Validate reports all that is wrong with c at once.
func (c Config) Validate() error {
	var faults []error
	for _, required := range []struct {
		name    string
		missing bool
	}{
		{"bind address", c.BindAddress == ""}, // it would be any port of every address
		{"nodes", c.Nodes == nil}, {"leases", c.Leases == nil}, {"backups", c.Backups == nil}, {"cluster", c.Cluster == nil},
		{"locator", c.Locator == nil}, {"local", c.Local == nil},
	} {
		if required.missing {
			faults = append(faults, fmt.Errorf("%s is not given", required.name))
		}
	}
	for _, bound := range []struct {
		name  string
		value time.Duration
	}{
		{"request timeout", c.RequestTimeout}, {"header timeout", c.HeaderTimeout},
		{"idle timeout", c.IdleTimeout}, {"keep-alive", c.KeepAlive}, {"stalled timeout", c.StalledTimeout},
	} {
		if bound.value < 0 {
			faults = append(faults, fmt.Errorf("%s %v is negative", bound.name, bound.value))
		}
	}
	if c.RequestTimeout > longestTimeout {
		faults = append(faults, fmt.Errorf("request timeout %v is more than %v", c.RequestTimeout, longestTimeout))
	}
	if c.HeaderTimeout >= longestTimeout {
		faults = append(faults, fmt.Errorf("header timeout %v is not less than %v", c.HeaderTimeout, longestTimeout))
	}
	if c.MaxBodyBytes < 0 {
		faults = append(faults, fmt.Errorf("maximum of body bytes %d is negative", c.MaxBodyBytes))
	}
	if c.MaxNewcomers < 0 {
		faults = append(faults, fmt.Errorf("maximum of newcomers %d is negative", c.MaxNewcomers))
	}
	if c.MaxConnections < 0 || c.MaxConnections == 1 {
		faults = append(faults, fmt.Errorf("maximum of connections %d is less than two", c.MaxConnections))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	c.RequestTimeout = cmp.Or(c.RequestTimeout, DefaultRequestTimeout)
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, DefaultHeaderTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.KeepAlive = cmp.Or(c.KeepAlive, DefaultKeepAlive)
	c.StalledTimeout = cmp.Or(c.StalledTimeout, DefaultStalledTimeout)
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, DefaultMaxBodyBytes)
	c.MaxNewcomers = cmp.Or(c.MaxNewcomers, DefaultMaxNewcomers)
	if c.MaxConnections > 0 {
		c.MaxNewcomers = min(c.MaxNewcomers, c.MaxConnections/2)
	}
	c.Metrics = cmp.Or(c.Metrics, prometheus.NewRegistry())
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}
