package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// Config says how the clients of a round behave.
type Config struct {
	// Name is the prefix of the names of the round's nodes. No other round may share it.
	Name string
	// Clients are clients of the instances. Each runs in a goroutine of its own.
	Clients []*harness.Client
	// Here is the query for reads that the instance asked must answer itself.
	Here string
	// Values is a counter that all rounds on a cluster share.
	Values *atomic.Int64
	// Timeout is how long a client waits for an answer.
	Timeout time.Duration
	// Think is how long a client waits between operations; zero means not at all.
	Think time.Duration
	// Reads is the percentage of operations that are reads; zero means 60.
	Reads int
	// Batches says that some writes are batches, and some are conditional on a revision.
	Batches bool
	// Acknowledged, unless nil, is called for each acknowledged write. It is called
	// from many goroutines.
	Acknowledged func(Write)
}

// Write is a write that was acknowledged.
type Write struct {
	Node     string
	Value    int // 0: the node was removed
	Revision uint64
	// Began is when it was sent, and At when the answer came.
	Began, At time.Time
}

// Round is a few seconds of load on nodes of its own. A short history can be
// searched fast even if many outcomes are unknown.
type Round struct {
	Config
	began time.Time

	mu      sync.Mutex
	nodes   []string       // in use
	names   int            // number of names used so far
	unknown map[string]int // by node: number of writes with unknown outcomes
	history []porcupine.Operation
}

// nodesInUse is the number of nodes that a round works on. mostUnknown is the
// number of writes with unknown outcomes after which a node is replaced by a new
// one, since all orders of such writes have to be searched.
const (
	nodesInUse  = 8
	mostUnknown = 3
)

// New returns a round that has not started.
func New(config Config) *Round {
	if config.Reads == 0 {
		config.Reads = 60
	}
	r := &Round{Config: config, began: time.Now(), nodes: make([]string, nodesInUse), unknown: map[string]int{}}
	for i := range r.nodes {
		r.replace(i)
	}
	return r
}

// replace replaces the i-th node by a new one. The caller holds mu, or has the only
// reference to the round.
func (r *Round) replace(i int) {
	r.names++
	r.nodes[i] = fmt.Sprintf("%s-n%d", r.Name, r.names)
}

// inUse returns the nodes in use.
func (r *Round) inUse() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.nodes)
}

// note adds an operation to the history, and replaces a node with too many unknown outcomes.
func (r *Round) note(operation porcupine.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, operation)
	if !operation.Output.(Output).Unknown {
		return
	}
	node := operation.Input.(Input).Node
	r.unknown[node]++
	if i := slices.Index(r.nodes, node); i >= 0 && r.unknown[node] >= mostUnknown {
		r.replace(i)
	}
}

// Count returns the number of operations so far.
func (r *Round) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.history)
}

// History returns the operations so far.
func (r *Round) History() []porcupine.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.history)
}

// Run runs the clients until ctx ends, and returns when all have stopped.
func (r *Round) Run(ctx context.Context) {
	var working sync.WaitGroup
	for id, client := range r.Clients {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(id), uint64(r.Values.Load())))
			for ctx.Err() == nil {
				r.act(id, client, random)
				r.think(ctx)
			}
		})
	}
	working.Wait()
}

func (r *Round) think(ctx context.Context) {
	if r.Think == 0 {
		return
	}
	select {
	case <-time.After(r.Think):
	case <-ctx.Done():
	}
}

// ReadAll makes the given number of concurrent reads through one instance, each as
// a client of its own.
func (r *Round) ReadAll(client *harness.Client, times int) {
	var reading sync.WaitGroup
	nodes := r.inUse()
	for n := range times {
		in := Input{Kind: Get, Node: nodes[n%len(nodes)], Here: n%2 == 0}
		reading.Go(func() { r.operate(len(r.Clients)+n, client, in) })
	}
	reading.Wait()
}

// WriteAll writes every node through one instance.
func (r *Round) WriteAll(client *harness.Client) {
	for _, node := range r.inUse() {
		r.operate(len(r.Clients), client, Input{Kind: Put, Node: node, Value: r.value()})
	}
}

func (r *Round) value() int { return int(r.Values.Add(1)) }

// act performs a random operation.
func (r *Round) act(id int, client *harness.Client, random *rand.Rand) {
	nodes := r.inUse()
	node := nodes[random.IntN(len(nodes))]
	if n := random.IntN(100); n < r.Reads {
		r.operate(id, client, Input{Kind: Get, Node: node, Here: n%2 == 0})
		return
	}
	switch n := random.IntN(8); {
	case n < 2 && r.Batches:
		r.batch(id, client, nodes[:2+random.IntN(len(nodes)-2)])
	case n < 4 && r.Batches:
		r.readAndReplace(id, client, node)
	case n < 6:
		r.operate(id, client, Input{Kind: Put, Node: node, Value: r.value()})
	case n < 7:
		r.operate(id, client, Input{Kind: PutIfAbsent, Node: node, Value: r.value()})
	default:
		r.operate(id, client, Input{Kind: Remove, Node: node})
	}
}

// begin returns an operation that begins now. Its context does not end with the
// round, so operations are always completed.
func (r *Round) begin(id int, in Input) (porcupine.Operation, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	return porcupine.Operation{ClientId: id, Input: in, Call: r.now()}, ctx, cancel
}

// end records the answer to an operation.
func (r *Round) end(operation porcupine.Operation, told answer) {
	in := operation.Input.(Input)
	operation.Return = r.now()
	switch {
	case told.outcome == harness.NotDone, told.outcome == harness.Unknown && in.Kind == Get:
		return // the operation says nothing about the registry
	case told.outcome == harness.Unknown:
		told.Output = Output{Unknown: true}
		operation.Return = Never
	}
	operation.Output = told.Output
	r.note(operation)
	if told.wrote && r.Acknowledged != nil {
		r.Acknowledged(Write{Node: in.Node, Value: in.Value, Revision: told.revision,
			Began: r.began.Add(time.Duration(operation.Call)), At: time.Now()})
	}
}

func (r *Round) operate(id int, client *harness.Client, in Input) answer {
	if in.Here {
		client = client.With(r.Here)
	}
	operation, ctx, cancel := r.begin(id, in)
	defer cancel()
	told := ask(ctx, client, in, 0)
	r.end(operation, told)
	return told
}

// readAndReplace reads a node and replaces it on the condition that its revision is
// unchanged. No two writes share a value, so the same revision means the same
// value.
func (r *Round) readAndReplace(id int, client *harness.Client, node string) {
	read := r.operate(id, client, Input{Kind: Get, Node: node})
	if !read.Present {
		return
	}
	operation, ctx, cancel := r.begin(id, Input{Kind: Replace, Node: node, Value: r.value(), Old: read.Value})
	defer cancel()
	r.end(operation, ask(ctx, client, operation.Input.(Input), read.revision))
}

// batch puts several nodes in one batch.
func (r *Round) batch(id int, client *harness.Client, ids []string) {
	var nodes []harness.Node
	var operations []porcupine.Operation
	for _, node := range ids {
		operation, _, cancel := r.begin(id, Input{Kind: Put, Node: node, Value: r.value()})
		cancel()
		operations = append(operations, operation)
		nodes = append(nodes, nodeOf(operation.Input.(Input)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	defer cancel()
	batch, err := client.Batch(ctx, harness.Puts(nodes...))
	for n, operation := range operations {
		told := answer{outcome: harness.OutcomeOf(err)}
		if err == nil {
			told.wrote, told.revision = true, batch.Results[n].Revision
		}
		r.end(operation, told)
	}
}

func (r *Round) now() int64 { return int64(time.Since(r.began)) }
