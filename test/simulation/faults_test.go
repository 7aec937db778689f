package simulation

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// fault does something to the cluster, for a while, and takes it back at the
// latest when ctx ends. It does not wait for that.
type fault func(h *story, random *rand.Rand, ctx context.Context)

var allFaults = []fault{
	isolate, isolate, deafen, silence, split, slowLink, breakConnections,
	crashOne, crashOne, crashAll, crashInWrite, crashVoters, slowDisk, hangDisk, failDisk,
	handOver, demote, promote, remove,
}

func (h *story) some(random *rand.Rand) *instance {
	// The leader is worth more than its share.
	if random.IntN(2) == 0 {
		if leader := h.leader(); leader != nil {
			return leader
		}
	}
	return h.instances[random.IntN(len(h.instances))]
}

// leader is who says that it leads; nil for nobody.
func (h *story) leader() *instance {
	for _, i := range h.instances {
		if p := i.alive(); p != nil {
			if state, _ := p.State(); state.Leading {
				return i
			}
		}
	}
	return nil
}

// during does something, and undoes it after a while.
func (h *story) during(ctx context.Context, d time.Duration, undo func()) {
	h.faults.Go(func() {
		h.pause(ctx, d)
		undo()
	})
}

func span(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// cut holds what is sent between two sides. Afterwards it either arrives, or is
// lost with its connections.
func (h *story) cut(ctx context.Context, random *rand.Rand, links [][2]string) {
	for _, l := range links {
		h.fabric.hold(l[0], l[1])
	}
	lost := random.IntN(2) == 0
	h.during(ctx, span(random, 20*time.Millisecond, 900*time.Millisecond), func() {
		h.trace("%v are mended, connections reset: %v", links, lost)
		for _, l := range links {
			if lost {
				h.fabric.reset(l[0], l[1])
			}
			h.fabric.free(l[0], l[1])
		}
	})
}

// around gives the links of one instance.
func (h *story) around(i *instance, from, to bool) (links [][2]string) {
	for _, other := range h.instances {
		if other == i {
			continue
		}
		if from {
			links = append(links, [2]string{i.address, other.address})
		}
		if to {
			links = append(links, [2]string{other.address, i.address})
		}
	}
	return links
}

func isolate(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	h.trace("%s is isolated", i.id)
	h.cut(ctx, random, h.around(i, true, true))
}

// deafen is what a paused process looks like, too: what was answered to it finds
// it later.
func deafen(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	h.trace("%s hears nothing", i.id)
	h.cut(ctx, random, h.around(i, false, true))
}

func silence(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	h.trace("%s is not heard", i.id)
	h.cut(ctx, random, h.around(i, true, false))
}

func split(h *story, random *rand.Rand, ctx context.Context) {
	var links [][2]string
	sides := random.Uint32()
	for n, a := range h.instances {
		for m, b := range h.instances {
			if sides>>n&1 != sides>>m&1 {
				links = append(links, [2]string{a.address, b.address})
			}
		}
	}
	h.trace("split: %v", links)
	h.cut(ctx, random, links)
}

func slowLink(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	links := h.around(i, random.IntN(2) == 0, true)
	by := span(random, 10*time.Millisecond, 200*time.Millisecond)
	h.trace("%v are slow, by %v", links, by)
	for _, l := range links {
		h.fabric.slowDown(l[0], l[1], by)
	}
	h.during(ctx, span(random, 50*time.Millisecond, time.Second), func() {
		for _, l := range links {
			h.fabric.slowDown(l[0], l[1], 0)
		}
	})
}

func breakConnections(h *story, random *rand.Rand, _ context.Context) {
	i := h.some(random)
	h.trace("connections of %s break", i.id)
	for _, l := range h.around(i, true, false) {
		h.fabric.reset(l[0], l[1])
	}
}

func (h *story) crashFor(ctx context.Context, i *instance, d time.Duration) {
	i.crash()
	h.during(ctx, d, func() { h.revive(i, 0) })
}

// downtime is mostly so short that others don't notice.
func downtime(random *rand.Rand) time.Duration {
	if random.IntN(3) > 0 {
		return span(random, time.Millisecond, 60*time.Millisecond)
	}
	return span(random, 50*time.Millisecond, 800*time.Millisecond)
}

func crashOne(h *story, random *rand.Rand, ctx context.Context) {
	h.crashFor(ctx, h.some(random), downtime(random))
}

func crashAll(h *story, random *rand.Rand, ctx context.Context) {
	for _, i := range h.instances {
		h.crashFor(ctx, i, downtime(random))
	}
}

// crashInWrite crashes an instance when it has just written something, most
// likely a term, a vote or an entry, and has told nobody.
func crashInWrite(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	down := downtime(random)
	i.disk.arm(1+random.IntN(8), false, func() {
		h.faults.Go(func() { h.crashFor(ctx, i, down) })
	})
}

// crashVoters crashes whoever votes, a little later: the vote is on its way.
func crashVoters(h *story, random *rand.Rand, ctx context.Context) {
	for _, i := range h.instances {
		later := span(random, 0, 5*time.Millisecond)
		down := span(random, time.Millisecond, 10*time.Millisecond)
		i.disk.arm(1, true, func() {
			h.faults.Go(func() {
				h.pause(ctx, later)
				h.crashFor(ctx, i, down)
			})
		})
	}
}

func slowDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, false, false, span(random, 5*time.Millisecond, 200*time.Millisecond))
}

func hangDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, true, false, 0)
}

func failDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, false, true, 0)
}

func (h *story) badDisk(ctx context.Context, random *rand.Rand, hung, failing bool, slow time.Duration) {
	i := h.some(random)
	h.trace("disk of %s: hung %v, failing %v, slow by %v", i.id, hung, failing, slow)
	down := span(random, 20*time.Millisecond, 60*time.Millisecond)
	// Raft 1.7.3 is not the same after an append that failed: it may go on believing
	// in entries that it has deleted, or in a membership that it could not write
	// down. What it is worth then only a new start can tell.
	i.disk.whenFailed(func() { h.faults.Go(func() { h.crashFor(ctx, i, down) }) })
	i.disk.behave(hung, failing, slow)
	h.during(ctx, span(random, 10*time.Millisecond, 700*time.Millisecond), func() {
		i.disk.behave(false, false, 0)
	})
}

// operate has the leader do something to the membership of i. To its own it does
// nothing, and hands over: who has the end of its own vote in its log, and leads no
// more, stands in the way of the others, and raft does not let it stand.
func (h *story) operate(ctx context.Context, what string, i *instance, do func(ctx context.Context, leader *process) error) {
	leader := h.leader()
	if leader == nil {
		return
	}
	p := leader.alive()
	h.faults.Go(func() {
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if i == leader {
			h.trace("%s: %s hands over: %v", what, i.id, p.HandOver(short, ""))
			return
		}
		err := do(short, p)
		h.trace("%s by %s: %v", what, leader.id, err)
	})
}

func handOver(h *story, random *rand.Rand, ctx context.Context) {
	to := ""
	if random.IntN(2) == 0 {
		to = h.instances[random.IntN(len(h.instances))].id
	}
	h.operate(ctx, "hand over to "+to, nil, func(ctx context.Context, leader *process) error { return leader.HandOver(ctx, to) })
}

func (h *story) setSuffrage(ctx context.Context, random *rand.Rand, suffrage domain.Suffrage) {
	i := h.some(random)
	h.operate(ctx, "make "+i.id+" a "+string(suffrage), i, func(ctx context.Context, leader *process) error {
		return leader.Add(ctx, domain.Instance{ID: i.id, RaftAddress: i.address, Suffrage: suffrage})
	})
}

func demote(h *story, random *rand.Rand, ctx context.Context) {
	h.setSuffrage(ctx, random, domain.Nonvoter)
}

func promote(h *story, random *rand.Rand, ctx context.Context) {
	h.setSuffrage(ctx, random, domain.Voter)
}

// remove ends a membership. Who was removed for sure may be cleared, and comes back
// as a nonvoter, and only then as a voter.
func remove(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	// Not the one that began the cluster: when it comes back, what it is sent begins
	// with a membership of it alone, in which it may elect itself before it has the
	// rest.
	clear := random.IntN(2) == 0 && i != h.instances[0]
	h.operate(ctx, "remove "+i.id, i, func(ctx context.Context, leader *process) error {
		if err := leader.Remove(ctx, i.id); err != nil || !clear || leader.dead.Load() {
			return err
		}
		i.crash()
		if err := i.forget(); err != nil {
			return err
		}
		h.revive(i, 0)
		return h.comeBack(ctx, leader, i)
	})
}

func (h *story) comeBack(ctx context.Context, leader *process, i *instance) error {
	member := domain.Instance{ID: i.id, RaftAddress: i.address, Suffrage: domain.Nonvoter}
	if err := leader.Add(ctx, member); err != nil {
		return err
	}
	goal, err := leader.ReadIndex(ctx)
	if err != nil {
		return err
	}
	for p := i.alive(); p != nil && !p.dead.Load(); {
		state, later := p.State()
		if state.Applied >= goal {
			member.Suffrage = domain.Voter
			return leader.Add(ctx, member)
		}
		if err := waitFor(ctx, longest, later); err != nil {
			return err
		}
	}
	return nil
}
