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
	// Name begins the names of its nodes, which no other round may share.
	Name string
	// Clients are each on the instance of one of them.
	Clients []*harness.Client
	// Here is the query of reads that the instance asked is to answer itself.
	Here string
	// Values are counted up by all rounds on a cluster.
	Values *atomic.Int64
	// Timeout is how long a client waits for an answer.
	Timeout time.Duration
	// Think is how long a client waits between operations; zero: not at all.
	Think time.Duration
	// Reads is how many of a hundred operations are reads; zero: 60.
	Reads int
	// Batches: some of the writes are batches, and some depend on a revision.
	Batches bool
	// Acknowledged is told of each write that was; nil: nobody wants to know. It is
	// called from many goroutines.
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

// Round is the load of some seconds, on nodes of its own: short histories are
// searched fast, however many outcomes are unknown.
type Round struct {
	Config
	began time.Time

	mu      sync.Mutex
	nodes   []string       // in use
	names   int            // used so far
	unknown map[string]int // writes to a node with unknown outcomes
	history []porcupine.Operation
}

// nodesInUse is how many nodes a round works on, and mostUnknown how many writes
// with unknown outcomes one of them may have before another takes its place: all
// orders of those have to be searched.
const (
	nodesInUse  = 8
	mostUnknown = 3
)

// New gives a round that has not begun.
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

// replace puts a new node where the i-th was. The caller holds mu, or has the
// round to itself.
func (r *Round) replace(i int) {
	r.names++
	r.nodes[i] = fmt.Sprintf("%s-n%d", r.Name, r.names)
}

// inUse gives the nodes in use.
func (r *Round) inUse() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.nodes)
}

// note adds an operation to the history.
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

// Count is how many operations there were so far.
func (r *Round) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.history)
}

// History is what the clients did and saw so far.
func (r *Round) History() []porcupine.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.history)
}

// Run lets the clients work until ctx ends, and returns when all have stopped.
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

// ReadAll reads so many times at once through one instance, as clients of its own.
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

// act does one thing of which the client was told, at random.
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

// begin gives an operation that begins now. What is begun is ended: an operation
// is not given up because the round is.
func (r *Round) begin(id int, in Input) (porcupine.Operation, context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), r.Timeout)
	return porcupine.Operation{ClientId: id, Input: in, Call: r.now()}, ctx, cancel
}

// end notes what became of an operation.
func (r *Round) end(operation porcupine.Operation, told answer) {
	in := operation.Input.(Input)
	operation.Return = r.now()
	switch {
	case told.outcome == harness.NotDone, told.outcome == harness.Unknown && in.Kind == Get:
		return // it says nothing about the registry
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

// readAndReplace reads a node and puts it on the condition that it is the same.
// No two writes share a value, so the same revision means the same value.
func (r *Round) readAndReplace(id int, client *harness.Client, node string) {
	read := r.operate(id, client, Input{Kind: Get, Node: node})
	if !read.Present {
		return
	}
	operation, ctx, cancel := r.begin(id, Input{Kind: Replace, Node: node, Value: r.value(), Old: read.Value})
	defer cancel()
	r.end(operation, ask(ctx, client, operation.Input.(Input), read.revision))
}

// batch puts several nodes at once.
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
