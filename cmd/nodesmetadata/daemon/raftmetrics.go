package daemon

import (
	"sync"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/hashicorp/go-metrics/compat/prometheus"
)

// raftMetrics collects what raft and its bolt store measure. They write to a
// sink that the whole process has once: instances that share a process, as
// tests have them, share these metrics.
//
// The compat packages are those that raft itself imports, so that this is the
// right one of the two modules behind them, whatever the build tags.
var raftMetrics = sync.OnceValues(func() (*prometheus.PrometheusSink, error) {
	// Without an expiration: a gauge that raft sets only when something changes
	// must not vanish while nothing does.
	sink, err := prometheus.NewPrometheusSinkFrom(prometheus.PrometheusOpts{Name: "raft"})
	if err != nil {
		return nil, err
	}
	config := metrics.DefaultConfig("")
	config.EnableHostname = false
	// The Go collector has these, and they would take a goroutine for ever.
	config.EnableRuntimeMetrics = false
	_, err = metrics.NewGlobal(config, sink)
	return sink, err
})
