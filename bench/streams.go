package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/parallel"
	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

func streams(s scale) []row {
	deliver := func(subscribers, writers int) row {
		return row{
			name: fmt.Sprintf("events to %s, %s", count(subscribers, "subscriber"), count(writers, "writer")),
			unit: perSecond, nodes: s.usual, measure: deliveries(subscribers, writers), quoted: subscribers == s.subscribers && writers > 1,
		}
	}
	return []row{
		deliver(max(1, s.subscribers/100), s.clients[1]),
		deliver(max(2, s.subscribers/10), s.clients[1]),
		deliver(s.subscribers, s.clients[0]),
		deliver(s.subscribers, s.clients[1]),
		{
			name: fmt.Sprintf("ack to event, p99, %s, %d writes/s", count(s.subscribers, "subscriber"), s.pace),
			unit: seconds, nodes: s.usual, measure: lateness(s.subscribers, (*measurement).atLeader), quoted: true,
		},
		{
			name: fmt.Sprintf("ack to event of a follower, p99, %s, %d writes/s", count(max(1, s.subscribers/100), "subscriber"), s.pace),
			unit: seconds, nodes: s.usual, kinds: noBare, measure: lateness(max(1, s.subscribers/100), (*measurement).atFollower), quoted: true,
		},
		{
			name: fmt.Sprintf("memory of an instance with %s", count(s.crowd, "subscriber")),
			unit: megabytes, nodes: s.usual, rounds: 1, kinds: noBare, measure: held(s.crowd), quoted: true,
		},
		{
			name: fmt.Sprintf("get beside a change to %s, p99", count(s.crowd, "subscriber")),
			unit: seconds, nodes: s.usual, rounds: 1, kinds: noBare, measure: beside(s.crowd, s.changes), quoted: true,
		},
	}
}

// crowd is a set of subscribers of one member. Each has a goroutine that ends when
// the crowd is closed.
type crowd struct {
	streams []servers.Stream
	reading sync.WaitGroup
	closed  atomic.Bool
	mu      sync.Mutex
	faults  []error
}

// gather opens size subscribers of one member. Each calls see, from a goroutine of
// its own, for every event. A skipped revision is an error, unless the event is a
// snapshot.
func (m *measurement) gather(member, size int, see func(subscriber int, e servers.Event)) (*crowd, error) {
	c := &crowd{streams: make([]servers.Stream, size)}
	err := parallel.Do(size, 32, func(i int) error {
		stream, err := m.cluster.Subscribe(member)
		c.streams[i] = stream
		return err
	})
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	for i, stream := range c.streams {
		c.reading.Go(func() {
			if err := follow(stream, func(e servers.Event) { see(i, e) }); !c.closed.Load() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.faults = append(c.faults, err)
			}
		})
	}
	return c, nil
}

// follow calls see for each event. It returns an error, at the latest when the
// stream is closed.
func follow(stream servers.Stream, see func(servers.Event)) error {
	var last int64
	for {
		e, err := stream.Next()
		if err != nil {
			return err
		}
		if last > 0 && e.Revision != last+1 && !e.Snapshot {
			return fmt.Errorf("revision %d came after %d", e.Revision, last)
		}
		last = e.Revision
		see(e)
	}
}

func (c *crowd) fault() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return parallel.Together(c.faults)
}

// close ends all subscribers, and returns the errors that occurred before.
func (c *crowd) close() error {
	c.closed.Store(true)
	for _, s := range c.streams {
		if s != nil {
			s.Close()
		}
	}
	c.reading.Wait()
	return c.fault()
}

// deliveries measures the number of events that arrive at all subscribers together
// while the writers write.
func deliveries(subscribers, writers int) func(*measurement) (sample, error) {
	return func(m *measurement) (got sample, err error) {
		var delivered atomic.Int64
		c, err := m.gather(m.leader, subscribers, func(_ int, e servers.Event) {
			if !e.Snapshot {
				delivered.Add(1)
			}
		})
		if err != nil {
			return sample{}, err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		began := time.Now()
		if _, err := m.load(m.leader, writers, m.write); err != nil {
			return sample{}, err
		}
		// However short the measurement is, something has to arrive.
		if err := c.await(func() bool { return delivered.Load() >= int64(subscribers) }); err != nil {
			return sample{}, err
		}
		return sample{value: float64(delivered.Load()) / time.Since(began).Seconds()}, nil
	}
}

// await waits until done returns true. It fails if a subscriber fails.
func (c *crowd) await(done func() bool) error {
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if err := c.fault(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("the subscribers have not been told after a minute")
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (m *measurement) atLeader() (int, error) { return m.leader, nil }

func (m *measurement) atFollower() (int, error) { return m.cluster.Follower() }

// lateness measures the time from the answer to a write until a subscriber has the
// event, over all subscribers and writes. An event that arrives before the answer
// is not late. The value is the 99th percentile.
func lateness(subscribers int, of func(*measurement) (member int, err error)) func(*measurement) (sample, error) {
	return func(m *measurement) (got sample, err error) {
		member, err := of(m)
		if err != nil {
			return sample{}, err
		}
		arrivals := make([][]time.Time, subscribers)
		var arrived atomic.Int64
		c, err := m.gather(member, subscribers, func(i int, _ servers.Event) {
			arrivals[i] = append(arrivals[i], time.Now())
			arrived.Add(1)
		})
		if err != nil {
			return sample{}, err
		}
		acknowledged, err := m.paced()
		if err == nil {
			err = c.await(func() bool { return arrived.Load() >= int64(subscribers*len(acknowledged)) })
		}
		if err := errors.Join(err, c.close()); err != nil {
			return sample{}, err
		}
		var late []time.Duration
		for i, times := range arrivals {
			if len(times) != len(acknowledged) {
				return sample{}, fmt.Errorf("subscriber %d got %d events of %d", i, len(times), len(acknowledged))
			}
			for n, at := range times {
				late = append(late, max(0, at.Sub(acknowledged[n])))
			}
		}
		slices.Sort(late)
		return sample{value: percentile(late, 99).Seconds(), p50: percentile(late, 50)}, nil
	}
}

// paced makes writes at the pace of the scale, for twice the time of a measurement,
// and returns the times of their answers.
func (m *measurement) paced() ([]time.Time, error) {
	client, err := m.cluster.Dial(m.leader)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ticker := time.NewTicker(time.Second / time.Duration(m.pace))
	defer ticker.Stop()
	var acknowledged []time.Time
	for end := time.Now().Add(2 * m.time); time.Now().Before(end); <-ticker.C {
		if err := m.write(client, m.number()); err != nil {
			return nil, err
		}
		acknowledged = append(acknowledged, time.Now())
	}
	return acknowledged, nil
}

// withCrowd calls measure while a crowd follows the leader. change makes one write,
// and calls meanwhile repeatedly until the whole crowd has received the event.
func withCrowd(subscribers int, measure func(m *measurement, change func(meanwhile func() error) error) (sample, error)) func(*measurement) (sample, error) {
	return func(m *measurement) (got sample, err error) {
		var arrived atomic.Int64
		c, err := m.gather(m.leader, subscribers, func(int, servers.Event) { arrived.Add(1) })
		if err != nil {
			return sample{}, err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		writer, err := m.cluster.Dial(m.leader)
		if err != nil {
			return sample{}, err
		}
		defer writer.Close()
		everybody := int64(0)
		return measure(m, func(meanwhile func() error) error {
			everybody += int64(subscribers)
			written := make(chan error, 1)
			go func() { written <- m.write(writer, m.number()) }()
			var fault error
			err := c.await(func() bool {
				fault = meanwhile()
				return fault != nil || arrived.Load() == everybody
			})
			return errors.Join(err, fault, <-written)
		})
	}
}

// held measures the memory of a leader that serves a crowd, after one change has
// reached the whole crowd.
func held(subscribers int) func(*measurement) (sample, error) {
	return withCrowd(subscribers, func(m *measurement, change func(func() error) error) (sample, error) {
		if err := change(func() error { return nil }); err != nil {
			return sample{}, err
		}
		memory, err := m.cluster.Members[m.leader].Memory()
		return sample{value: float64(memory)}, err
	})
}

// beside measures the latency of a client's gets while changes go to a crowd. The
// client waits for a millisecond after each answer. The value is the 99th
// percentile over all changes.
func beside(subscribers, changes int) func(*measurement) (sample, error) {
	return withCrowd(subscribers, func(m *measurement, change func(func() error) error) (sample, error) {
		reader, err := m.cluster.Dial(m.leader)
		if err != nil {
			return sample{}, err
		}
		defer reader.Close()
		var latencies []time.Duration
		for range changes {
			err := change(func() error {
				began := time.Now()
				err := reader.Get(m.number()%m.nodes, servers.Linearizable)
				latencies = append(latencies, time.Since(began))
				return err
			})
			if err != nil {
				return sample{}, err
			}
		}
		slices.Sort(latencies)
		return sample{value: percentile(latencies, 99).Seconds(), p50: percentile(latencies, 50)}, nil
	})
}
