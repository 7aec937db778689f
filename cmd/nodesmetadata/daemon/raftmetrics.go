package daemon

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"
)

// raftMetrics collects the metrics of raft and its bolt store. These write to one global
// sink, so instances in one process, as in tests, share these metrics.
//
// Raft imports the same compat package, so both use the same one of the two modules behind
// it, whatever the build tags.
var raftMetrics = sync.OnceValues(func() (*raftSink, error) {
	sink := newRaftSink()
	config := metrics.DefaultConfig("")
	config.EnableHostname = false
	// The Go collector has these already, and here they would need a goroutine for ever.
	config.EnableRuntimeMetrics = false
	_, err := metrics.NewGlobal(config, sink)
	return sink, err
})

// raftSink exports raft's metrics to Prometheus, with histograms for its samples. The sink
// of go-metrics makes summaries instead: it keeps hundreds of samples for each, 3 MB in
// all, and sorts them every few measurements, and their quantiles can't be aggregated over
// instances. A metric appears when it is first measured, and stays.
type raftSink struct {
	// known are the metrics by kind, name and labels. A map here is never modified.
	known  atomic.Pointer[map[string]prometheus.Metric]
	adding sync.Mutex // held while one is added
}

func newRaftSink() *raftSink {
	s := &raftSink{}
	s.known.Store(&map[string]prometheus.Metric{})
	return s
}

// raftBuckets are for milliseconds, and for the few samples that are numbers of
// entries or bytes.
var raftBuckets = []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10_000}

// raftNames turns a name into one that Prometheus allows.
var raftNames = strings.NewReplacer(" ", "_", ".", "_", "=", "_", "-", "_", "/", "_")

// find returns the metric of this kind and name, and creates it the first time. It does not
// allocate for a known one, because raft measures several things for every entry.
func (s *raftSink) find(kind byte, key []string, labels []metrics.Label, create func(prometheus.Opts) prometheus.Metric) prometheus.Metric {
	var room [128]byte
	id := append(room[:0], kind)
	for _, part := range key {
		id = append(append(id, '_'), part...)
	}
	for _, label := range labels {
		id = append(append(id, ';'), label.Name...)
		id = append(append(id, '='), label.Value...)
	}
	if found, known := (*s.known.Load())[string(id)]; known {
		return found
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	if found, known := (*s.known.Load())[string(id)]; known {
		return found
	}
	name := raftNames.Replace(strings.Join(key, "_"))
	constant := prometheus.Labels{}
	for _, label := range labels {
		constant[label.Name] = label.Value
	}
	more := maps.Clone(*s.known.Load())
	more[string(id)] = create(prometheus.Opts{Name: name, Help: name, ConstLabels: constant})
	s.known.Store(&more)
	return more[string(id)]
}

func newRaftGauge(o prometheus.Opts) prometheus.Metric {
	return prometheus.NewGauge(prometheus.GaugeOpts(o))
}

func newRaftCounter(o prometheus.Opts) prometheus.Metric {
	return prometheus.NewCounter(prometheus.CounterOpts(o))
}

func newRaftHistogram(o prometheus.Opts) prometheus.Metric {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: o.Name, Help: o.Help, ConstLabels: o.ConstLabels, Buckets: raftBuckets})
}

// SetGauge implements metrics.MetricSink.
func (s *raftSink) SetGauge(key []string, value float32) { s.SetGaugeWithLabels(key, value, nil) }

// SetGaugeWithLabels implements metrics.MetricSink.
func (s *raftSink) SetGaugeWithLabels(key []string, value float32, labels []metrics.Label) {
	s.find('g', key, labels, newRaftGauge).(prometheus.Gauge).Set(float64(value))
}

// EmitKey implements metrics.MetricSink. Raft does not use it, and Prometheus has
// nothing like it.
func (s *raftSink) EmitKey([]string, float32) {}

// IncrCounter implements metrics.MetricSink.
func (s *raftSink) IncrCounter(key []string, by float32) { s.IncrCounterWithLabels(key, by, nil) }

// IncrCounterWithLabels implements metrics.MetricSink.
func (s *raftSink) IncrCounterWithLabels(key []string, by float32, labels []metrics.Label) {
	s.find('c', key, labels, newRaftCounter).(prometheus.Counter).Add(float64(by))
}

// AddSample implements metrics.MetricSink.
func (s *raftSink) AddSample(key []string, value float32) { s.AddSampleWithLabels(key, value, nil) }

// AddSampleWithLabels implements metrics.MetricSink.
func (s *raftSink) AddSampleWithLabels(key []string, value float32, labels []metrics.Label) {
	s.find('h', key, labels, newRaftHistogram).(prometheus.Histogram).Observe(float64(value))
}

// Describe implements prometheus.Collector. It describes nothing, because it is not known
// what raft will measure.
func (s *raftSink) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s *raftSink) Collect(all chan<- prometheus.Metric) {
	for _, metric := range *s.known.Load() {
		all <- metric
	}
}
