package daemon

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/fx"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Validate checks that the dependency graph is complete, without building it.
func Validate(c config.Config) error {
	return fx.ValidateApp(graph(c, io.Discard, func(error) {}))
}

// RegistryCollector returns the collector of what the registry of an instance holds.
func RegistryCollector(local ports.Local) prometheus.Collector {
	return collector(func() []sample { return registrySamples(local) })
}

// Collector returns the metrics of the raft port, of raft and of leases.
func Collector(port demux.Stats, raft consensus.Stats, leases app.LeaseStats) prometheus.Collector {
	return collector(func() []sample {
		return slices.Concat(demuxSamples(port), raftSamples(raft), leaseSamples(leases))
	})
}

// NewLatencies returns the observer of the consensus adapter, with all that it measures.
func NewLatencies() (consensus.Observer, []prometheus.Collector) {
	l := newLatencies()
	return l, []prometheus.Collector{l.proposed, l.applied, l.stored, l.entries}
}

// Backends returns the backends that the dependency graph knows.
func Backends() []string {
	var names []string
	for _, b := range backends {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	return names
}

// Fail is what the parts of d call when they can't go on.
func (d *Daemon) Fail(err error) { d.fail(err) }

// Serve is the part of Run after New.
func (d *Daemon) Serve(ctx context.Context) int { return d.run(ctx) }

// TimeForRequests returns the time that requests in flight have when an instance stops, if
// it can't hand leadership over and the other steps take no time.
func TimeForRequests(whole time.Duration) time.Duration {
	stopping := steps(parts{})
	slices.Reverse(stopping)
	for _, s := range stopping {
		part := time.Duration(cmp.Or(s.share, 1) * float64(whole))
		switch s.name {
		case "application API":
			return part
		case "leadership":
			whole -= part
		}
	}
	return 0
}

// StepsWithAllTheTime are the steps of the stop that may take all that is left.
func StepsWithAllTheTime() (names []string) {
	for _, s := range steps(parts{}) {
		if s.close != nil && s.share == 0 {
			names = append(names, s.name)
		}
	}
	return names
}

// TimeToClose is how long a step with this share may take when it is closed with ctx, false
// if its time is not bounded.
func TimeToClose(ctx context.Context, share float64) (left time.Duration, bounded bool) {
	close := step{share: share, close: func(ctx context.Context) error {
		var deadline time.Time
		deadline, bounded = ctx.Deadline()
		left = time.Until(deadline)
		return ctx.Err()
	}}
	if close.hook().OnStop(ctx) != nil {
		return 0, true
	}
	return left, bounded
}

// ConnectionsOf is how many clients may be connected.
var ConnectionsOf = connectionsOf

// Tidy returns memory to the operating system now and then.
var Tidy = tidy

// LogWriter is a logWriter with a logger that writes to it.
type LogWriter struct {
	*slog.Logger
	logs *logWriter
}

func NewLogWriter(c config.Config, sink io.Writer) (LogWriter, error) {
	logs, err := newLogWriter(c, sink)
	if err != nil {
		return LogWriter{}, err
	}
	logger, err := newLogger(c, logs)
	return LogWriter{logger, logs}, err
}

// MostPending is the maximum number of bytes of the log that wait to be written.
const MostPending = mostPending

// Flush is what an instance calls at its end.
func (o LogWriter) Flush(most time.Duration) { o.logs.flush(most) }

// Lost returns the number of lost lines, as the metric shows it.
func (o LogWriter) Lost() uint64 { return o.logs.lost.Load() }

// NewRaftSink returns a sink that raft does not write to.
var NewRaftSink = newRaftSink

// OperatorTunes reports whether the environment sets how Go uses memory.
var OperatorTunes = operatorTunes

// Quiet finds out when it is time to tidy memory.
type Quiet struct{ quiet }

func (q *Quiet) Due(allocated, live uint64) bool { return q.due(allocated, live) }
func (q *Quiet) Tidied(allocated uint64)         { q.tidied(allocated) }

// FreePort returns a port for an address with port 0.
var FreePort = freePort

// Choices returns all ports that FreePort may choose.
func Choices() map[string]bool {
	all := map[string]bool{}
	for port := lowestChoice; port < highestChoice; port++ {
		all[strconv.Itoa(port)] = true
	}
	return all
}
