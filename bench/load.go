package main

import (
	"slices"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/parallel"
	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

// operation is what a client does repeatedly. n is different each time.
type operation func(c servers.Client, n int) error

// load has clients of one member repeat the operation for the time of a
// measurement, each as soon as its last one is answered. Operations that begin in a
// warm-up of a tenth of that time are not counted. A client without a counted
// operation goes on until it has one. An error ends its client and fails the
// measurement.
func (m *measurement) load(member, clients int, do operation) (sample, error) {
	all := make([]servers.Client, clients)
	for i := range all {
		c, err := m.cluster.Dial(member)
		if err != nil {
			return sample{}, err
		}
		defer c.Close()
		all[i] = c
	}
	latencies := make([][]time.Duration, clients)
	faults := make([]error, clients)
	began := time.Now().Add(m.time / 10)
	end := began.Add(m.time)
	var working sync.WaitGroup
	for i, c := range all {
		working.Go(func() {
			for now := time.Now(); now.Before(end) || len(latencies[i]) == 0; {
				if err := do(c, m.number()); err != nil {
					faults[i] = err
					return
				}
				then := time.Now()
				if now.After(began) {
					latencies[i] = append(latencies[i], then.Sub(now))
				}
				now = then
			}
		})
	}
	working.Wait()
	took := time.Since(began)
	if err := parallel.Together(faults); err != nil {
		return sample{}, err
	}
	done := slices.Concat(latencies...)
	slices.Sort(done)
	return sample{
		value: float64(len(done)) / took.Seconds(),
		p50:   percentile(done, 50),
		p99:   percentile(done, 99),
	}, nil
}

// percentile returns a percentile of values in ascending order; 0 if there are none.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*p/100]
}
