package daemon_test

import (
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/daemon"
)

func TestWhatRaftMeasuresIsShown(t *testing.T) {
	sink := daemon.NewRaftSink()
	var all sync.WaitGroup
	for range 4 { // raft measures from many goroutines
		all.Go(func() {
			for range 25 {
				sink.IncrCounter([]string{"raft", "apply"}, 2)
				sink.AddSample([]string{"raft", "leader.last-contact"}, 3)
			}
		})
	}
	all.Wait()
	sink.AddSample([]string{"raft", "leader.last-contact"}, 40_000)
	sink.SetGauge([]string{"raft", "peers"}, 5)
	sink.SetGauge([]string{"raft", "peers"}, 4)
	for n, peer := range []string{"n2", "n3"} {
		sink.IncrCounterWithLabels([]string{"raft", "rpc"}, float32(n+1), []metrics.Label{{Name: "peer_id", Value: peer}})
	}
	want := map[string]float64{
		"raft_apply COUNTER":                          200,
		"raft_leader_last_contact HISTOGRAM count":    101,
		"raft_leader_last_contact HISTOGRAM sum":      40_300,
		"raft_leader_last_contact HISTOGRAM up to 5":  100,
		"raft_leader_last_contact HISTOGRAM up to .5": 0,
		"raft_peers GAUGE":                            4,
		`raft_rpc COUNTER peer_id="n2"`:               1,
		`raft_rpc COUNTER peer_id="n3"`:               2,
	}
	if got := measured(t, sink); !maps.Equal(got, want) {
		t.Errorf("metrics = %v, want %v", got, want)
	}
}

// measured returns the metrics of a collector, with two buckets of each histogram.
func measured(t *testing.T, collector prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := fmt.Sprintf("%s %v", family.GetName(), family.GetType())
			for _, label := range m.GetLabel() {
				name += fmt.Sprintf(" %s=%q", label.GetName(), label.GetValue())
			}
			histogram := m.GetHistogram()
			if histogram == nil {
				values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
				continue
			}
			values[name+" count"], values[name+" sum"] = float64(histogram.GetSampleCount()), histogram.GetSampleSum()
			for _, bucket := range histogram.GetBucket() {
				switch bucket.GetUpperBound() {
				case .5:
					values[name+" up to .5"] = float64(bucket.GetCumulativeCount())
				case 5:
					values[name+" up to 5"] = float64(bucket.GetCumulativeCount())
				}
			}
		}
	}
	return values
}

func TestASampleAllocatesNothing(t *testing.T) {
	sink := daemon.NewRaftSink()
	key, labels := []string{"raft", "rpc"}, []metrics.Label{{Name: "peer_id", Value: "n2"}}
	if n := testing.AllocsPerRun(100, func() { sink.AddSampleWithLabels(key, 1, labels) }); n > 0 {
		t.Errorf("allocations per sample = %v, want none", n)
	}
}
