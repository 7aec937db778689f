package daemon

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// latencies implements consensus.Observer with histograms, because package consensus knows
// no metrics library.
type latencies struct {
	proposed, applied, stored prometheus.Histogram
	entries                   prometheus.Counter
}

func newLatencies() *latencies {
	buckets := prometheus.ExponentialBuckets(0.00005, 2.5, 14) // 50 µs to 7 s
	return &latencies{
		proposed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nodesmetadata_write_duration_seconds",
			Help:    "How long it took this leader to have a write on the disks of a majority, and applied.",
			Buckets: buckets,
		}),
		applied: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nodesmetadata_apply_duration_seconds",
			Help:    "How long it took to apply committed entries, as many as came together.",
			Buckets: buckets,
		}),
		stored: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "nodesmetadata_log_store_duration_seconds",
			Help:    "How long the log store took until entries were on the disk of this instance, as many as came together.",
			Buckets: buckets,
		}),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nodesmetadata_applied_entries_total",
			Help: "Committed entries of the raft log that were applied since the start.",
		}),
	}
}

// Proposed implements consensus.Observer.
func (l *latencies) Proposed(took time.Duration) { l.proposed.Observe(took.Seconds()) }

// Applied implements consensus.Observer.
func (l *latencies) Applied(entries int, took time.Duration) {
	l.applied.Observe(took.Seconds())
	l.entries.Add(float64(entries))
}

// Stored implements consensus.Observer.
func (l *latencies) Stored(took time.Duration) { l.stored.Observe(took.Seconds()) }

// sample is one value of a metric.
type sample struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	value  float64
	labels []string
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("nodesmetadata_"+name, help, labels, nil)
}

func gauge(d *prometheus.Desc, value float64, labels ...string) sample {
	return sample{d, prometheus.GaugeValue, value, labels}
}

func counter(d *prometheus.Desc, value uint64, labels ...string) sample {
	return sample{d, prometheus.CounterValue, float64(value), labels}
}

// collector collects the metrics of parts that know no metrics library.
type collector func() []sample

// Describe implements prometheus.Collector. It describes nothing, which makes the collector
// unchecked: inconsistent metrics are found when they are collected.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range c() {
		metrics <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value, s.labels...)
	}
}

func truth(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}

var (
	revisionDesc = desc("registry_revision", "The registry's revision, as far as this instance has applied it.")
	nodesDesc    = desc("registry_nodes", "Cache nodes by pool and state; the pools with the fewest nodes count as (others) where there are very many pools.", "pool", "state")
	caughtUpDesc = desc("caught_up", "1 once this instance has caught up since its start.")
	readyDesc    = desc("ready", "1 while /readyz says so.")
	contactDesc  = desc("leader_contact_seconds", "How long ago this instance heard from the leader, or, when it leads, from a majority.")
)

// shownPools limits the series of a metric that has the pool as a label.
const shownPools = 100

// otherPools stands for the remaining pools. It can't be the name of a pool.
const otherPools = "(others)"

// registrySamples returns the metrics of the registry. It visits every node.
func registrySamples(local ports.Local) []sample {
	state, _ := local.State()
	samples := []sample{
		gauge(revisionDesc, float64(state.View.Revision())),
		gauge(caughtUpDesc, truth(state.CaughtUp)),
		gauge(readyDesc, truth(len(state.Unready("")) == 0)),
	}
	if contact, ever := local.LeaderContact(); ever {
		samples = append(samples, gauge(contactDesc, contact.Seconds()))
	}
	for pool, states := range nodesByPool(state.View) {
		for _, s := range []domain.State{domain.Active, domain.Draining, domain.Down} {
			samples = append(samples, gauge(nodesDesc, float64(states[s]), pool, string(s)))
		}
	}
	return samples
}

type byState map[domain.State]int

func nodesByPool(view domain.View) map[string]byState {
	pools, sizes := map[string]byState{}, map[string]int{}
	for n := range view.Nodes() {
		if pools[n.Pool] == nil {
			pools[n.Pool] = byState{}
		}
		pools[n.Pool][n.State]++
		sizes[n.Pool]++
	}
	if len(pools) <= shownPools {
		return pools
	}
	others := byState{}
	largest := slices.SortedFunc(maps.Keys(pools), func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b))
	})
	for _, name := range largest[shownPools:] {
		for state, n := range pools[name] {
			others[state] += n
		}
		delete(pools, name)
	}
	pools[otherPools] = others
	return pools
}

var (
	termDesc         = desc("raft_term", "The raft term.")
	leaderDesc       = desc("raft_leader", "1 while this instance leads and serves.")
	lastIndexDesc    = desc("raft_last_index", "The last entry of the raft log that is stored here.")
	commitIndexDesc  = desc("raft_commit_index", "The last entry that this instance knows to be committed.")
	appliedIndexDesc = desc("raft_applied_index", "The last entry that this instance has applied.")
	proofsDesc       = desc("read_gate_rounds_total", "Rounds of heartbeats that proved leadership to reads.")
	provenDesc       = desc("read_gate_readers_total", "Reads that asked for a round; over the rounds, how many share one.")
	questionsDesc    = desc("read_index_rounds_total", "Questions to the leader for reads that are answered here.")
	askedDesc        = desc("read_index_readers_total", "Reads that asked for such a question; over the questions, how many share one.")
	formatDesc       = desc("log_format", "The format of the raft log that this build reads.")
	sharedFormatDesc = desc("log_format_shared", "The format that every instance of the cluster is known to read.")
	logBytesDesc     = desc("log_store_bytes", "What the log store takes on disk.")
	snapBytesDesc    = desc("snapshots_bytes", "What the snapshots take on disk.")
	troubleDesc      = desc("disk_trouble", "1 while the disk does not answer, or refuses: this instance neither leads nor stands for election then.")
	troublesDesc     = desc("disk_troubles_total", "How often that began.")
)

// raftSamples returns the metrics of the consensus adapter.
func raftSamples(stats consensus.Stats) []sample {
	if !stats.Opened {
		return nil
	}
	return []sample{
		gauge(termDesc, float64(stats.Term)),
		gauge(leaderDesc, truth(stats.Leads)),
		gauge(lastIndexDesc, float64(stats.LastIndex)),
		gauge(commitIndexDesc, float64(stats.CommitIndex)),
		gauge(appliedIndexDesc, float64(stats.AppliedIndex)),
		counter(proofsDesc, stats.ProofsTotal),
		counter(provenDesc, stats.ProvenTotal),
		counter(questionsDesc, stats.QuestionsTotal),
		counter(askedDesc, stats.AskedTotal),
		gauge(formatDesc, float64(stats.Format)),
		gauge(sharedFormatDesc, float64(stats.SharedFormat)),
		gauge(logBytesDesc, float64(stats.LogBytes)),
		gauge(snapBytesDesc, float64(stats.SnapshotBytes)),
		gauge(troubleDesc, truth(stats.DiskTrouble)),
		counter(troublesDesc, stats.DiskTroublesTotal),
	}
}

var (
	leasesDesc    = desc("leases", "Nodes that have to be renewed, while this instance leads.")
	renewalsDesc  = desc("lease_renewals_total", "Renewals that this instance took as the leader.")
	expiredDesc   = desc("lease_expired_total", "Nodes that this instance had expire as the leader.")
	heldPoolsDesc = desc("lease_expiry_held_pools", "Pools whose expiry this leader holds back.")
	heldNodesDesc = desc("lease_expiry_held_nodes", "Nodes that have run out of time in a pool whose expiry this leader holds back.", "pool")
)

// leaseSamples returns the metrics of leases.
func leaseSamples(stats app.LeaseStats) []sample {
	samples := []sample{
		gauge(leasesDesc, float64(stats.Leased)),
		counter(renewalsDesc, stats.Renewals),
		counter(expiredDesc, stats.Expired),
		gauge(heldPoolsDesc, float64(len(stats.Held))),
	}
	for _, pool := range stats.Held[:min(len(stats.Held), shownPools)] {
		samples = append(samples, gauge(heldNodesDesc, float64(pool.Overdue), pool.Pool))
	}
	return samples
}
