package main

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/bench/internal/servers"
)

// scale is the size of the table: as published, or as tested.
type scale struct {
	rounds int
	time   time.Duration

	clients     []int // four, ascending, the first of them 1
	few         int   // nodes
	usual       int
	list        int
	many        int
	huge        int
	subscribers int
	crowd       int // number of subscribers: as many as an instance has to support
	changes     int // number of changes sent to the crowd
	pace        int // writes per second during the measurements of streams
	entries     int // number of log entries before a restart
	kills       int
	starts      int
}

var published = scale{
	rounds: 3, time: time.Second,
	clients: []int{1, 16, 64, 256},
	few:     10, usual: 100, list: 1000, many: 10_000, huge: 100_000,
	subscribers: 1000, crowd: 10_000, changes: 10, pace: 50,
	entries: 100_000, kills: 10, starts: 5,
}

// stage is a group of rows that share a cluster for each kind, with the given
// number of members. With 0 members each row starts its own.
type stage struct {
	title   string
	members int
	// prepare is called once for each cluster. It may be nil.
	prepare func(*measurement) error
	rows    []row
}

// row is measured in rounds. In each round, every kind has its turn.
type row struct {
	name    string
	unit    unit
	nodes   int      // the number that the registry has to hold
	rounds  int      // 0 means the rounds of the scale
	kinds   []string // kinds to measure; nil means all
	quoted  bool     // shown in the README, too
	measure func(*measurement) (sample, error)
}

// measurement is the state with which a row measures one kind once.
type measurement struct {
	scale
	kind      servers.Kind
	cluster   *servers.Cluster // nil in a stage without members
	leader    int
	nodes     int
	directory func() (string, error) // returns a new directory each time
	numbers   *atomic.Int64
}

// number returns a different number each time. It is never the initial weight of
// nodes, with which a write would be no change.
func (m *measurement) number() int { return int(m.numbers.Add(1)) + 1 }

type sample struct {
	value    float64 // in the base unit of the row: operations per second, seconds, or bytes
	p50, p99 time.Duration
}

// noBare are the kinds that store what they are given.
var noBare = []string{"nodesmetadata", "etcd"}

// table returns everything that is measured.
func table(s scale) []stage {
	return []stage{
		{title: "Requests to three instances", members: 3, rows: requests(s)},
		{title: "Writes to three instances, by size of the registry", members: 3, rows: sizes(s)},
		{title: "Other requests to three instances", members: 3, prepare: lease, rows: otherRequests(s)},
		{title: "Streams of three instances", members: 3, rows: streams(s)},
		{title: "A lone instance", members: 1, rows: instances(s, 1)},
		{title: "Five instances", members: 5, rows: instances(s, 5)},
		{title: "Outages of three instances", members: 3, rows: outages(s)},
		{title: "Starts", rows: starts(s)},
		{title: "A lone instance that has lived", members: 1, prepare: live, rows: restarts(s)},
		{title: "Three instances that have lived", members: 3, prepare: live, rows: costs(s)},
	}
}

func requests(s scale) []row {
	var rows []row
	last := len(s.clients) - 1
	for i, clients := range s.clients {
		one := write(clients, s.usual)
		one.quoted = i != 1
		rows = append(rows, one)
	}
	readers := []int{s.clients[0], s.clients[last-1], s.clients[last]}
	for _, nodes := range []int{s.usual, s.many} {
		for _, clients := range readers {
			rows = append(rows, row{
				name: fmt.Sprintf("get, %s, %s", count(clients, "client"), count(nodes, "node")),
				unit: perSecond, nodes: nodes, measure: gets(clients, servers.Linearizable), quoted: nodes == s.many,
			})
		}
		if nodes == s.many {
			break
		}
		rows = append(rows, lists(s.list, readers[:2])...)
	}
	return append(rows, lists(s.many, readers[:2])...)
}

func write(clients, nodes int) row {
	return row{
		name: fmt.Sprintf("write, %s, %s", count(clients, "client"), count(nodes, "node")),
		unit: perSecond, nodes: nodes, measure: writes(clients),
	}
}

// sizes returns rows that are compared with each other, so they are measured back to back.
func sizes(s scale) []row {
	var rows []row
	for _, nodes := range []int{s.few, s.huge} {
		one := write(s.clients[len(s.clients)-2], nodes)
		one.kinds = noBare
		rows = append(rows, one)
	}
	return rows
}

// otherRequests returns rows that are compared with the writes and gets for the same
// number of nodes.
func otherRequests(s scale) []row {
	var rows []row
	add := func(name string, clients int, do func(clients int) func(*measurement) (sample, error)) {
		rows = append(rows, row{
			name: name + ", " + count(clients, "client"),
			unit: perSecond, nodes: s.usual, kinds: noBare, measure: do(clients),
		})
	}
	for _, clients := range []int{s.clients[0], s.clients[len(s.clients)-2], s.clients[len(s.clients)-1]} {
		add("get from a follower, as fresh", clients, func(clients int) func(*measurement) (sample, error) {
			return gets(clients, servers.FromFollower)
		})
		add("stale get from a follower", clients, func(clients int) func(*measurement) (sample, error) {
			return gets(clients, servers.Stale)
		})
		add("renewal of a time to live", clients, renewals)
	}
	add(fmt.Sprintf("batch of %s", count(s.usual, "change")), s.clients[1], batches)
	return rows
}

// instances returns the rows whose cost depends on the number of instances.
func instances(s scale, members int) []row {
	of := func(what string, measure func(clients int) func(*measurement) (sample, error)) row {
		clients := s.clients[len(s.clients)-2]
		return row{
			name: fmt.Sprintf("%s, %s, %s", what, count(clients, "client"), count(members, "instance")),
			unit: perSecond, nodes: s.usual, kinds: noBare, measure: measure(clients),
		}
	}
	return []row{
		of("write", writes),
		of("get", func(clients int) func(*measurement) (sample, error) { return gets(clients, servers.Linearizable) }),
	}
}

// lease makes the registry hold the usual number of nodes, and gives each a time to live.
func lease(m *measurement) error {
	if err := m.hold(m.usual); err != nil {
		return err
	}
	c, err := m.cluster.Dial(m.leader)
	if err != nil {
		return err
	}
	defer c.Close()
	for n := range m.nodes {
		if err := c.Lease(n); err != nil {
			return err
		}
	}
	return nil
}

func renewals(clients int) func(*measurement) (sample, error) {
	return func(m *measurement) (sample, error) {
		return m.load(m.leader, clients, func(c servers.Client, n int) error { return c.Renew(n % m.nodes) })
	}
}

func batches(clients int) func(*measurement) (sample, error) {
	return func(m *measurement) (sample, error) {
		return m.load(m.leader, clients, func(c servers.Client, n int) error { return c.Batch(0, m.nodes, n%maxWeight) })
	}
}

func lists(nodes int, readers []int) (rows []row) {
	for _, clients := range readers {
		rows = append(rows, row{
			name: fmt.Sprintf("list of %s, %s", thousands(nodes), count(clients, "client")),
			unit: perSecond, nodes: nodes, quoted: clients > 1,
			measure: func(m *measurement) (sample, error) {
				return m.load(m.leader, clients, func(c servers.Client, _ int) error { return c.List(m.nodes) })
			},
		})
	}
	return rows
}

// writes returns a measurement in which each write sets the weight of the next node.
func writes(clients int) func(*measurement) (sample, error) {
	return func(m *measurement) (sample, error) {
		return m.load(m.leader, clients, m.write)
	}
}

// maxWeight is an exclusive upper bound of weights.
const maxWeight = 1_000_001

func (m *measurement) write(c servers.Client, n int) error {
	return c.Put(n%m.nodes, n%maxWeight)
}

func gets(clients int, f servers.Freshness) func(*measurement) (sample, error) {
	return func(m *measurement) (sample, error) {
		from := m.leader
		if f != servers.Linearizable {
			var err error
			if from, err = m.cluster.Follower(); err != nil {
				return sample{}, err
			}
		}
		return m.load(from, clients, func(c servers.Client, n int) error { return c.Get(n%m.nodes, f) })
	}
}
