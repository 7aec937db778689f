package daemon

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/demux"
	"github.com/nodesmetadata/nodesmetadata/adapters/peerapi"
	"github.com/nodesmetadata/nodesmetadata/app"
)

// newMetrics returns the registry of all metrics but those that the application API adds.
func newMetrics(logs *logWriter, port *demux.Demux, node *consensus.Node, leases *app.Leases, took *latencies) (*prometheus.Registry, error) {
	raft, err := raftMetrics()
	if err != nil {
		return nil, fmt.Errorf("raft's metrics: %w", err)
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "nodesmetadata_build_info",
		Help:        "Always 1; its label says which build this is.",
		ConstLabels: prometheus.Labels{"version": Version()},
	})
	build.Set(1)
	registry := prometheus.NewRegistry()
	var faults []error
	for _, one := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "nodesmetadata_lost_log_lines_total",
			Help: "Lines of the log that were not taken, and are lost.",
		}, func() float64 { return float64(logs.lost.Load()) }),
		raft,
		collector(func() []sample { return demuxSamples(port.Stats()) }),
		took.proposed,
		took.applied,
		took.stored,
		took.entries,
		collector(func() []sample { return registrySamples(node) }),
		collector(func() []sample { return raftSamples(node.Stats()) }),
		collector(func() []sample { return leaseSamples(leases.Stats()) }),
	} {
		faults = append(faults, registry.Register(one))
	}
	return registry, errors.Join(faults...)
}

var laneNames = map[byte]string{consensus.RaftLane: "raft", peerapi.Lane: "peer"}

var (
	acceptedDesc     = desc("raft_port_accepted_total", "Connections that were accepted on the raft port.")
	acceptErrorsDesc = desc("raft_port_accept_errors_total", "Accepts on the raft port that failed and were tried again.")
	pendingDesc      = desc("raft_port_pending", "Connections that have not yet said what they are for.")
	rejectedDesc     = desc("raft_port_rejected_total", "Connections that were closed before they were handed over, by reason.", "reason")
	handedOverDesc   = desc("raft_port_handed_over_total", "Connections that were handed over to a lane.", "lane")
	openDesc         = desc("raft_port_open", "Connections that are open on a lane that bounds them.", "lane")
	evictedDesc      = desc("raft_port_evicted_total", "Connections of a lane that were closed to make room for others.", "lane")
)

// demuxSamples returns the metrics of the demux.
func demuxSamples(stats demux.Stats) []sample {
	samples := []sample{
		counter(acceptedDesc, stats.Accepted),
		counter(acceptErrorsDesc, stats.AcceptErrors),
		gauge(pendingDesc, float64(stats.Pending)),
	}
	for reason, n := range stats.Rejected {
		samples = append(samples, counter(rejectedDesc, n, reason.String()))
	}
	for first, lane := range stats.Lanes {
		name := laneNames[first]
		samples = append(samples, counter(handedOverDesc, lane.HandedOver, name),
			gauge(openDesc, float64(lane.Open), name), counter(evictedDesc, lane.Evicted, name))
	}
	return samples
}
