package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// nodesInUse is the number of nodes that the clients of a history work on.
const nodesInUse = 4

// outcome is what a client was told.
type outcome int

const (
	done outcome = iota
	refused
	notDone
	unknown
)

func (o outcome) String() string { return [...]string{"done", "refused", "not done", "unknown"}[o] }

// record is what a client asked and what it was told. call and ends come from the
// clock of the history: an answer that came before another operation's call has the
// smaller number.
type record struct {
	client     int
	at         string // the instance
	call, ends int64

	edits   []edit
	changes []domain.Change
	refusal *domain.Refusal

	read  *ports.Read
	local bool // a read that claims to be linearizable, but proved nothing
	view  domain.View

	outcome outcome
	err     error
}

// edit is one part of a write.
type edit struct {
	node   string
	remove bool
	value  int // the weight to write; no two writes share one
	when   domain.Condition
}

func (e edit) command() domain.Command {
	if e.remove {
		return domain.Deregister{ID: e.node, If: e.when}
	}
	node, err := domain.NewCacheNode(domain.NodeSpec{ID: e.node, Address: e.node + ":1", Weight: &e.value})
	must(err)
	return domain.Register{Node: node, If: e.when}
}

func (r *record) String() string {
	what := "read"
	if r.read != nil {
		what = fmt.Sprintf("read %+v", *r.read)
	}
	for _, e := range r.edits {
		what = fmt.Sprintf("put %s=%d %v", e.node, e.value, e.when)
		if e.remove {
			what = fmt.Sprintf("remove %s %v", e.node, e.when)
		}
	}
	told := r.outcome.String()
	switch {
	case r.outcome == done && r.read != nil:
		told = fmt.Sprintf("revision %d", r.view.Revision())
	case r.outcome == done:
		told = fmt.Sprintf("revision %d", r.changes[len(r.changes)-1].Revision)
	case r.err != nil:
		told += ": " + r.err.Error()
	}
	return fmt.Sprintf("client %d at %s [%d, %d] %s: %s", r.client, r.at, r.call, r.ends, what, told)
}

// client makes the operations of one client, one after the other.
type client struct {
	story  *story
	id     int
	random *rand.Rand
	latest domain.Revision // the highest in its answers
}

func newClient(h *story, n int) *client {
	return &client{story: h, id: n, random: rand.New(rand.NewPCG(h.seed, uint64(1000+n)))}
}

func (c *client) work(ctx context.Context) {
	for ctx.Err() == nil {
		c.story.pause(ctx, time.Duration(c.random.Int64N(int64(c.story.plan.think))))
		p := c.choose()
		if p == nil {
			continue
		}
		timeout := span(c.random, 20*time.Millisecond, 1200*time.Millisecond)
		// Operations are completed even if the test ends: that must be no reason
		// for an unknown outcome.
		short, cancel := context.WithTimeout(c.story.running, timeout)
		if c.random.IntN(100) < c.story.plan.reads {
			c.read(short, p)
		} else {
			c.write(short, p, c.edits())
		}
		cancel()
	}
}

// choose returns an instance, preferring those that say they lead: followers mostly refuse.
func (c *client) choose() *process {
	var p *process
	for range 4 {
		p = c.story.instances[c.random.IntN(len(c.story.instances))].alive()
		if p != nil {
			if state, _ := p.State(); state.Leading {
				break
			}
		}
	}
	return p
}

func (c *client) edits() []edit {
	edits := make([]edit, 1)
	if c.random.IntN(6) == 0 {
		edits = make([]edit, 2+c.random.IntN(2))
	}
	for i := range edits {
		e := &edits[i]
		e.node = fmt.Sprintf("n%d", c.random.IntN(nodesInUse))
		e.remove = c.random.IntN(5) == 0
		e.value = c.story.nextValue()
		switch n := c.random.IntN(12); {
		case n == 0 && !e.remove:
			e.when.Expect = domain.Absent
		case n == 1:
			e.when.Expect = domain.Present
		case n == 2 && c.latest > 0:
			e.when = domain.Condition{Expect: domain.AtRevision, Revision: c.latest}
		}
	}
	return edits
}

func (h *story) nextValue() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values++
	return h.values
}

func (c *client) write(ctx context.Context, p *process, edits []edit) error {
	r := &record{client: c.id, at: p.instance.id, edits: edits}
	cmd := edits[0].command()
	if len(edits) > 1 {
		batch := domain.Batch{}
		for _, e := range edits {
			batch.Commands = append(batch.Commands, e.command())
		}
		cmd = batch
	}
	r.call = c.story.clock.Add(1)
	r.changes, r.err = p.Propose(ctx, cmd)
	r.outcome = outcomeOf(r.err)
	errors.As(r.err, &r.refusal)
	if p.dead.Load() {
		r.outcome = unknown
	}
	if r.outcome == unknown && c.story.broken.hides {
		r.outcome = notDone
	}
	if r.outcome == done {
		c.latest = r.changes[len(r.changes)-1].Revision
	}
	c.story.note(r)
	return r.err
}

func outcomeOf(err error) outcome {
	var refusal *domain.Refusal
	switch {
	case err == nil:
		return done
	case errors.As(err, &refusal):
		return refused
	case errors.Is(err, ports.ErrNotLeader), errors.Is(err, ports.ErrBusy), errors.Is(err, ports.ErrClosed):
		return notDone
	}
	return unknown
}

func (h *story) note(r *record) {
	r.ends = h.clock.Add(1)
	h.mu.Lock()
	h.records = append(h.records, r)
	h.mu.Unlock()
	if r.outcome != notDone {
		h.trace("%v", r)
	}
}

func (c *client) read(ctx context.Context, p *process) {
	wanted := ports.Read{Source: ports.Source(c.random.IntN(3))}
	if wanted.Source == ports.Stale && c.random.IntN(2) == 0 {
		wanted.AtLeast, wanted.Wait = c.latest, 50*time.Millisecond
	}
	r := &record{client: c.id, at: p.instance.id, read: &wanted, call: c.story.clock.Add(1)}
	sure := p.SureLeader()
	c.story.checkSure(p, sure)
	if c.story.broken.reads && wanted.Source != ports.Stale {
		r.view, r.err = localRead(p)
	} else {
		r.view, r.err = p.nodes.View(ctx, wanted)
	}
	r.outcome = done
	if r.err != nil || p.dead.Load() {
		r.outcome = notDone // a read has no effect that could be unknown
	} else {
		c.latest = max(c.latest, r.view.Revision())
	}
	c.story.note(r)
}

// localRead answers from a leader's own state, without proving leadership.
func localRead(p *process) (domain.View, error) {
	state, _ := p.State()
	if !state.Leading {
		return domain.View{}, ports.ErrNotLeader
	}
	return state.View, nil
}

// writeSomewhere tries to write through each instance once, until one write succeeds.
func (c *client) writeSomewhere(ctx context.Context) error {
	var faults []error
	for _, i := range c.story.instances {
		p := i.alive()
		if p == nil {
			faults = append(faults, fmt.Errorf("%s is down", i.id))
			continue
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		err := c.write(short, p, []edit{{node: "n0", value: c.story.nextValue()}})
		cancel()
		if err == nil {
			return nil
		}
		faults = append(faults, fmt.Errorf("%s: %w", i.id, err))
	}
	return errors.Join(faults...)
}
