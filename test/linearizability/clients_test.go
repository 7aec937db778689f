package linearizability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
	"github.com/nodesmetadata/nodesmetadata/test/model"
)

// operationTimeout is longer than a leader is paused, so that what was sent to
// it before is answered after.
const operationTimeout = 4 * time.Second

// round is the load of some seconds, on nodes of its own: short histories are
// searched fast, however many outcomes are unknown.
type round struct {
	name    string
	here    string            // the query of reads that the instance asked is to answer itself
	clients []*harness.Client // each on the instance of one of them
	began   time.Time
	values  *atomic.Int64

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

// replace puts a new node where the i-th was. The caller holds mu, or has the
// round to itself.
func (r *round) replace(i int) {
	r.names++
	r.nodes[i] = fmt.Sprintf("%s-n%d", r.name, r.names)
}

// inUse gives the nodes in use.
func (r *round) inUse() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.nodes)
}

// note adds an operation to the history.
func (r *round) note(operation porcupine.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history = append(r.history, operation)
	if !operation.Output.(model.Output).Unknown {
		return
	}
	node := operation.Input.(model.Input).Node
	r.unknown[node]++
	if i := slices.Index(r.nodes, node); i >= 0 && r.unknown[node] >= mostUnknown {
		r.replace(i)
	}
}

// run lets the clients work until ctx ends, and returns when all have stopped.
func (r *round) run(ctx context.Context) {
	var working sync.WaitGroup
	for id, client := range r.clients {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(id), uint64(r.values.Load())))
			for ctx.Err() == nil {
				r.operate(id, client, r.choose(random))
			}
		})
	}
	working.Wait()
}

// readAll reads so many times at once through one instance, as clients of its own.
func (r *round) readAll(client *harness.Client, times int) {
	var reading sync.WaitGroup
	nodes := r.inUse()
	for n := range times {
		in := model.Input{Kind: model.Get, Node: nodes[n%len(nodes)], Here: n%2 == 0}
		reading.Go(func() { r.operate(len(r.clients)+n, client, in) })
	}
	reading.Wait()
}

// writeAll writes every node through one instance.
func (r *round) writeAll(client *harness.Client) {
	for _, node := range r.inUse() {
		r.operate(len(r.clients), client, model.Input{Kind: model.Put, Node: node, Value: int(r.values.Add(1))})
	}
}

func (r *round) choose(random *rand.Rand) model.Input {
	nodes := r.inUse()
	in := model.Input{Node: nodes[random.IntN(len(nodes))]}
	switch n := random.IntN(100); {
	case n < 60:
		in.Kind = model.Get
		in.Here = n%2 == 0
	case n < 90:
		in.Kind = model.Put
	case n < 95:
		in.Kind = model.PutIfAbsent
	default:
		in.Kind = model.Remove
	}
	if in.Kind == model.Put || in.Kind == model.PutIfAbsent {
		in.Value = int(r.values.Add(1))
	}
	return in
}

func (r *round) operate(id int, client *harness.Client, in model.Input) {
	// What was begun is ended: an operation is not given up because the round is.
	ctx, cancel := context.WithTimeout(context.Background(), operationTimeout)
	defer cancel()
	operation := porcupine.Operation{ClientId: id, Input: in, Call: r.now()}
	if in.Here {
		client = client.With(r.here)
	}
	out, outcome := ask(ctx, client, in)
	operation.Return = r.now()
	switch {
	case outcome == harness.NotDone, outcome == harness.Unknown && in.Kind == model.Get:
		return // it says nothing about the registry
	case outcome == harness.Unknown:
		out = model.Output{Unknown: true}
		operation.Return = model.Never
	}
	operation.Output = out
	r.note(operation)
}

func (r *round) now() int64 { return int64(time.Since(r.began)) }

func ask(ctx context.Context, client *harness.Client, in model.Input) (model.Output, harness.Outcome) {
	node := harness.NewNode(in.Node)
	node.Weight = &in.Value
	var (
		stored harness.Stored
		err    error
	)
	switch in.Kind {
	case model.Get:
		stored, err = client.Get(ctx, in.Node)
	case model.Put:
		_, err = client.Put(ctx, node)
		return model.Output{}, harness.OutcomeOf(err)
	case model.PutIfAbsent:
		_, err = client.Put(ctx, node, harness.IfAbsent())
		if hasStatus(err, http.StatusPreconditionFailed) {
			return model.Output{Present: true}, harness.Done
		}
		return model.Output{}, harness.OutcomeOf(err)
	case model.Remove:
		stored, err = client.Delete(ctx, in.Node)
	}
	if hasStatus(err, http.StatusNotFound) {
		return model.Output{}, harness.Done
	}
	if err != nil {
		return model.Output{}, harness.OutcomeOf(err)
	}
	if in.Kind == model.Remove {
		return model.Output{Present: true}, harness.Done
	}
	return model.Output{Present: true, Value: *stored.Weight}, harness.Done
}

func hasStatus(err error, status int) bool {
	problem := new(harness.Problem)
	return errors.As(err, &problem) && problem.Answer.Status == status
}

// load makes rounds for one cluster.
type load struct {
	t       *testing.T
	cluster *harness.Cluster
	clients []*harness.Client
	here    string // see round
	values  atomic.Int64
	rounds  int
}

// linearizable is how half of the reads are made, which an instance that does not
// lead answers itself; others it redirects. local reads ask nobody.
const (
	linearizable = "redirect=false"
	local        = "consistency=stale"
)

func (l *load) round() *round {
	l.rounds++
	r := &round{
		name:    fmt.Sprintf("r%d", l.rounds),
		here:    l.here,
		clients: l.clients,
		began:   time.Now(),
		values:  &l.values,
		nodes:   make([]string, nodesInUse),
		unknown: map[string]int{},
	}
	for i := range r.nodes {
		r.replace(i)
	}
	return r
}
