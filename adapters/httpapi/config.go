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
	DefaultRequestTimeout        = 5 * time.Second
	DefaultHeaderTimeout         = 5 * time.Second
	DefaultIdleTimeout           = 2 * time.Minute
	DefaultKeepAlive             = 15 * time.Second
	DefaultStalledTimeout        = 30 * time.Second
	DefaultMaxBodyBytes          = 1 << 20
	DefaultMaxPendingConnections = 256
	DefaultPendingGrace          = 200 * time.Millisecond
)

// longestTimeout is the maximum of Config.RequestTimeout and of Config.HeaderTimeout.
const longestTimeout = 10 * time.Second

// writeGrace is how much longer than RequestTimeout the writing of a response may take.
const writeGrace = 5 * time.Second

// maxHeaderBytes is far more than the calls of this API need, and little enough
// for many connections at once.
const maxHeaderBytes = 16 << 10

// Config is what a Server needs.
type Config struct {
	// BindAddress is host:port, and must be given; Open fails if it is anything else. An
	// empty host means every address of the machine. Port 0 takes a free port: see
	// Server.Addr.
	BindAddress string

	// Nodes, Leases, Backups, Cluster, Locator and Local must be given.
	Nodes   ports.Nodes
	Leases  ports.Leases
	Backups ports.Backups
	Cluster ports.Cluster
	Locator ports.LeaderLocator
	Local   ports.Local

	// Joining may be nil if this instance asks nobody for membership.
	Joining ports.JoinStatus

	// Metrics is where the server's metrics are registered, and what /metrics
	// shows. Nil: a registry of its own.
	Metrics *prometheus.Registry

	// Version is what /version says of the build.
	Version string

	// Logger gets faults of this program, once each, and the messages of net/http. Nil
	// logs nothing.
	Logger *slog.Logger

	// RequestTimeout is how long it may take to decide what to answer, beside the time
	// that the request asks to wait. A restore has no limit. Writing the response may take
	// 5 s more; a backup has StalledTimeout for each piece instead. Zero means
	// DefaultRequestTimeout; at most 10 s.
	RequestTimeout time.Duration

	// HeaderTimeout is how long the header of a request may take to arrive. Header and
	// body together have RequestTimeout and 2.5 s more. Zero means DefaultHeaderTimeout;
	// less than 10 s.
	HeaderTimeout time.Duration

	// IdleTimeout is how long a connection is kept between requests. Zero means
	// DefaultIdleTimeout.
	IdleTimeout time.Duration

	// KeepAlive is the longest time in which a stream sends nothing. Zero means
	// DefaultKeepAlive.
	KeepAlive time.Duration

	// StalledTimeout is how long a client of a stream or a backup may read nothing before
	// it is disconnected. Zero means DefaultStalledTimeout.
	StalledTimeout time.Duration

	// MaxBodyBytes is the longest body that is read; a restore has no limit. Zero means
	// DefaultMaxBodyBytes.
	MaxBodyBytes int64

	// MaxPendingConnections is how many connections may be open whose first request has not
	// arrived. When one more comes, the oldest is closed once it has had PendingGrace. Zero
	// means DefaultMaxPendingConnections.
	MaxPendingConnections int

	// PendingGrace is how long a connection has for its first request, however many others
	// there are. Zero means DefaultPendingGrace: a client usually sends its first request
	// right after it connects.
	PendingGrace time.Duration

	// MaxConnections is how many connections may be open, at least two. Further ones are
	// closed at once. At most half of them may be pending. Zero: no limit.
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
		{"grace of pending connections", c.PendingGrace},
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
	if c.MaxPendingConnections < 0 {
		faults = append(faults, fmt.Errorf("maximum of pending connections %d is negative", c.MaxPendingConnections))
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
	c.MaxPendingConnections = cmp.Or(c.MaxPendingConnections, DefaultMaxPendingConnections)
	c.PendingGrace = cmp.Or(c.PendingGrace, DefaultPendingGrace)
	if c.MaxConnections > 0 {
		c.MaxPendingConnections = min(c.MaxPendingConnections, c.MaxConnections/2)
	}
	c.Metrics = cmp.Or(c.Metrics, prometheus.NewRegistry())
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c
}
