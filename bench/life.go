package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/parallel"
	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

// outages returns the rows of a cluster of three that loses its leader.
func outages(s scale) []row {
	return []row{
		{
			name: "killed leader, first write",
			unit: seconds, nodes: s.usual, rounds: s.kills, kinds: noBare, measure: killed, quoted: true,
		},
		{
			name: "SIGTERM to the leader, gap of writes",
			unit: seconds, nodes: s.usual, rounds: s.kills, kinds: noBare, measure: handedOver, quoted: true,
		},
	}
}

// starts returns the rows that start a cluster of their own.
func starts(s scale) []row {
	return []row{{
		name: "cold start of one, first write",
		unit: seconds, rounds: s.starts, kinds: noBare, measure: coldStart, quoted: true,
	}}
}

// restarts returns the rows of a lone instance with a long log.
func restarts(s scale) []row {
	return []row{{
		name: fmt.Sprintf("restart after %s, first write", count(s.entries, "write")),
		unit: seconds, rounds: s.starts, kinds: noBare, measure: restart, quoted: true,
	}}
}

// costs returns the rows of a cluster of three after many writes.
func costs(s scale) []row {
	lived := fmt.Sprintf("after %s of %s", count(s.entries, "write"), count(s.usual, "node"))
	cost := func(name string, u unit, measure func(*measurement) (sample, error)) row {
		return row{name: name, unit: u, rounds: 1, kinds: noBare, measure: measure, quoted: true}
	}
	return []row{
		cost("memory of three "+lived, megabytes, func(m *measurement) (sample, error) {
			sum, err := m.cluster.Sum((*servers.Process).Memory)
			return sample{value: float64(sum)}, err
		}),
		cost("disk of three "+lived, megabytes, func(m *measurement) (sample, error) {
			sum, err := m.cluster.Sum((*servers.Process).Disk)
			return sample{value: float64(sum)}, err
		}),
		cost("processor of three, idle", percent, idle),
		{
			name: fmt.Sprintf("processor for 1 000 writes, %s", count(s.clients[len(s.clients)-2], "client")),
			unit: seconds, kinds: noBare, measure: spent, quoted: true,
		},
	}
}

// live makes as many writes as the log is to have entries.
func live(m *measurement) error {
	if err := m.hold(m.usual); err != nil {
		return err
	}
	var left atomic.Int64
	left.Store(int64(m.entries))
	clients := m.clients[len(m.clients)-2]
	return parallel.Do(clients, clients, func(int) error {
		c, err := m.cluster.Dial(m.leader)
		if err != nil {
			return err
		}
		defer c.Close()
		for left.Add(-1) >= 0 {
			if err := m.write(c, m.number()); err != nil {
				return err
			}
		}
		return nil
	})
}

// killed measures the time from SIGKILL to the leader until the others have
// acknowledged a write.
func killed(m *measurement) (sample, error) {
	var others []int
	for i := range m.cluster.Members {
		if i != m.leader {
			others = append(others, i)
		}
	}
	ready := m.startWriters(others)
	defer ready.stop()
	leader := m.cluster.Members[m.leader]
	if err := leader.Kill(); err != nil {
		return sample{}, err
	}
	took, err := ready.first(time.Now())
	if err != nil {
		return sample{}, err
	}
	ready.stop()
	if err := leader.Start(); err != nil {
		return sample{}, err
	}
	return sample{value: took.Seconds()}, m.cluster.AwaitReady()
}

// handedOver measures the longest time without an acknowledged write around SIGTERM
// to the leader.
func handedOver(m *measurement) (sample, error) {
	var all []int
	for i := range m.cluster.Members {
		all = append(all, i)
	}
	writers := m.startWriters(all)
	defer writers.stop()
	if _, err := writers.first(time.Now()); err != nil {
		return sample{}, err
	}
	leader := m.cluster.Members[m.leader]
	began := time.Now()
	if err := leader.Signal(syscall.SIGTERM); err != nil {
		return sample{}, err
	}
	if err := leader.Wait(); err != nil {
		return sample{}, err
	}
	if _, err := writers.first(time.Now().Add(m.time / 4)); err != nil {
		return sample{}, err
	}
	gap := writers.gapSince(began)
	writers.stop()
	if err := leader.Start(); err != nil {
		return sample{}, err
	}
	return sample{value: gap.Seconds()}, m.cluster.AwaitReady()
}

func coldStart(m *measurement) (sample, error) {
	directory, err := m.directory()
	if err != nil {
		return sample{}, err
	}
	alone := *m
	alone.nodes = m.usual
	if alone.cluster, err = m.kind.Cluster(directory, 1); err != nil {
		return sample{}, err
	}
	began := time.Now()
	if err := alone.cluster.Members[0].Start(); err != nil {
		return sample{}, err
	}
	got, err := alone.firstWrite(began)
	return got, errors.Join(err, alone.cluster.Stop())
}

// restart ends the only instance with SIGKILL, since a start has the most to do after a crash.
func restart(m *measurement) (sample, error) {
	if err := m.cluster.Members[0].Kill(); err != nil {
		return sample{}, err
	}
	began := time.Now()
	if err := m.cluster.Members[0].Start(); err != nil {
		return sample{}, err
	}
	return m.firstWrite(began)
}

func (m *measurement) firstWrite(began time.Time) (sample, error) {
	writers := m.startWriters([]int{0})
	defer writers.stop()
	took, err := writers.first(began)
	return sample{value: took.Seconds()}, err
}

// idle measures the share of one processor that three instances use without requests.
func idle(m *measurement) (sample, error) {
	before, err := m.cluster.CPU()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	time.Sleep(5 * m.time)
	after, err := m.cluster.CPU()
	// The kernel counts processor time in units of 10 ms.
	used := max(after-before, 10*time.Millisecond)
	return sample{value: used.Seconds() / time.Since(began).Seconds()}, err
}

// spent measures the processor time of all instances for a thousand writes.
func spent(m *measurement) (sample, error) {
	before, err := m.cluster.CPU()
	if err != nil {
		return sample{}, err
	}
	first := m.numbers.Load()
	if _, err := m.load(m.leader, m.clients[len(m.clients)-2], m.write); err != nil {
		return sample{}, err
	}
	after, err := m.cluster.CPU()
	used := max(after-before, 10*time.Millisecond)
	return sample{value: used.Seconds() / float64(m.numbers.Load()-first) * 1000}, err
}

// writers write through some members, with one writer for each. A writer retries at
// once when its write is refused or times out.
type writers struct {
	working sync.WaitGroup
	cancel  context.CancelFunc

	mu     sync.Mutex
	writes []acknowledged
	fault  error // the latest one
}

// acknowledged is the time of an acknowledged write.
type acknowledged struct{ began, ended time.Time }

// writeTimeout is a writer's timeout: etcd does not answer writes while it has no leader.
const writeTimeout = 100 * time.Millisecond

func (m *measurement) startWriters(members []int) *writers {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writers{cancel: cancel}
	for _, member := range members {
		w.working.Go(func() { w.write(ctx, m, member) })
	}
	return w
}

func (w *writers) stop() {
	w.cancel()
	w.working.Wait()
}

func (w *writers) write(ctx context.Context, m *measurement, member int) {
	var client servers.Client
	for ctx.Err() == nil {
		var err error
		began := time.Now()
		if client == nil {
			if client, err = m.cluster.Dial(member); err == nil {
				client.SetTimeout(writeTimeout)
			}
		}
		if client != nil {
			err = m.write(client, m.number())
		}
		w.tell(began, err)
		if err != nil {
			if client != nil {
				client.Close()
				client = nil
			}
			time.Sleep(time.Millisecond)
		}
	}
	if client != nil {
		client.Close()
	}
}

func (w *writers) tell(began time.Time, err error) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.fault = err
		return
	}
	w.writes = append(w.writes, acknowledged{began, now})
}

// first waits for an acknowledged write that began after a time, and returns how long
// after that time it was acknowledged.
func (w *writers) first(after time.Time) (time.Duration, error) {
	deadline := after.Add(time.Minute)
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.writes, func(a acknowledged) bool { return a.began.After(after) })
		var took time.Duration
		if i >= 0 {
			took = w.writes[i].ended.Sub(after)
		}
		fault := w.fault
		w.mu.Unlock()
		if i >= 0 {
			return took, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("no write within a minute: %w", fault)
		}
		time.Sleep(time.Millisecond)
	}
}

// gapSince returns the longest time without an acknowledged write, starting with the
// last one before began.
func (w *writers) gapSince(began time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(w.writes); i++ {
		if w.writes[i].ended.After(began) {
			longest = max(longest, w.writes[i].ended.Sub(w.writes[i-1].ended))
		}
	}
	return longest
}
