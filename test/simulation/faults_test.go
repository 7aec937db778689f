package simulation

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// fault disturbs the cluster for a while. It returns at once, and the disturbance
// ends with ctx at the latest.
type fault func(h *story, random *rand.Rand, ctx context.Context)

var allFaults = []fault{
	isolate, isolate, deafen, silence, split, slowLink, breakConnections,
	crashOne, crashOne, crashAll, crashInWrite, crashVoters, duel, slowDisk, hangDisk, failDisk, fillDisk,
	handOver, demote, promote, remove, wipe,
}

func (h *story) some(random *rand.Rand) *instance {
	// Faults of the leader reveal more than its share of instances would give.
	if random.IntN(2) == 0 {
		if leader := h.leader(); leader != nil {
			return leader
		}
	}
	return h.instances[random.IntN(len(h.instances))]
}

// leader returns an instance that says it leads, or nil if there is none.
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

// during calls undo after d, or when ctx ends.
func (h *story) during(ctx context.Context, d time.Duration, undo func()) {
	h.faults.Go(func() {
		h.pause(ctx, d)
		undo()
	})
}

func span(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// cut holds what is sent over links for a while. Afterwards the data either
// arrives, or is lost with its connections.
func (h *story) cut(ctx context.Context, random *rand.Rand, links [][2]string) {
	for _, l := range links {
		h.fabric.hold(l[0], l[1])
	}
	lost := random.IntN(2) == 0
	h.during(ctx, span(random, 20*time.Millisecond, 900*time.Millisecond), func() {
		h.trace("links %v are freed, connections reset: %v", links, lost)
		for _, l := range links {
			if lost {
				h.fabric.reset(l[0], l[1])
			}
			h.fabric.free(l[0], l[1])
		}
	})
}

// around returns the links between an instance and all others: those from it, those to it,
// or both.
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

// deafen also looks like a pause of the process: answers to it arrive later.
func deafen(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	h.trace("%s hears nothing", i.id)
	h.cut(ctx, random, h.around(i, false, true))
}

func silence(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	h.trace("nobody hears %s", i.id)
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
	h.trace("links %v are slow, by up to %v", links, by)
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
	h.trace("connections of %s are reset", i.id)
	for _, l := range h.around(i, true, false) {
		h.fabric.reset(l[0], l[1])
	}
}

func (h *story) crashFor(ctx context.Context, i *instance, d time.Duration) {
	i.crash()
	h.during(ctx, d, func() { h.revive(i, 0) })
}

// downtime returns a time that is mostly too short for others to notice.
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

// crashInWrite crashes an instance when it has just written something, most likely
// a term, a vote or an entry, and has not yet told anyone.
func crashInWrite(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	down := downtime(random)
	i.disk.arm(1+random.IntN(8), false, func() {
		h.faults.Go(func() { h.crashFor(ctx, i, down) })
	})
}

// crashVoters crashes each instance a little after it has written a vote: the vote is on its way.
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

// duel crashes the leader and cuts the others off from each other, so that each
// asks it for its vote. When one gets the vote, the voter crashes again and is cut
// off from that candidate: it is the other's turn.
func duel(h *story, random *rand.Rand, ctx context.Context) {
	voter := h.leader()
	if voter == nil {
		return
	}
	wanting := h.around(voter, false, true)
	var between [][2]string
	for _, from := range wanting {
		for _, to := range wanting {
			if from != to {
				between = append(between, [2]string{from[0], to[0]})
			}
		}
	}
	h.trace("%s is asked for votes by others that are cut off from each other", voter.id)
	h.cut(ctx, random, between)
	down := span(random, time.Millisecond, 10*time.Millisecond)
	h.crashFor(ctx, voter, down)
	random = rand.New(rand.NewPCG(random.Uint64(), 0)) // what follows runs concurrently with other faults
	var voted func()
	voted = func() {
		h.faults.Go(func() {
			candidate := voter.disk.candidate()
			switch {
			case candidate == "" || ctx.Err() != nil:
				return
			case candidate == voter.address:
				voter.disk.arm(1, true, voted)
				return
			}
			h.pause(ctx, span(random, 0, 5*time.Millisecond))
			h.cut(ctx, random, [][2]string{{candidate, voter.address}})
			h.crashFor(ctx, voter, down)
		})
	}
	voter.disk.arm(1, true, voted)
}

func slowDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, behaviour{slow: span(random, 5*time.Millisecond, 200*time.Millisecond)})
}

func hangDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, behaviour{hung: true})
}

func failDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, behaviour{failing: true})
}

func fillDisk(h *story, random *rand.Rand, ctx context.Context) {
	h.badDisk(ctx, random, behaviour{full: true})
}

func (h *story) badDisk(ctx context.Context, random *rand.Rand, b behaviour) {
	i := h.some(random)
	h.trace("disk of %s: %+v", i.id, b)
	i.disk.behave(b)
	h.during(ctx, span(random, 10*time.Millisecond, 1500*time.Millisecond), func() { i.disk.behave(behaviour{}) })
}

// operate has the leader change the membership of i. If i is the leader itself, it
// hands over instead: a former leader whose log takes away its own vote blocks the
// others, and raft does not let it stand for election.
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

// change is operate for changes of who is a voter. It does nothing while a
// directory is being wiped.
func (h *story) change(ctx context.Context, what string, i *instance, do func(ctx context.Context, leader *process) error) {
	h.operate(ctx, what, i, func(ctx context.Context, leader *process) error {
		if !h.losing.TryRLock() {
			return errors.New("not while the directory of an instance is being wiped")
		}
		defer h.losing.RUnlock()
		return do(ctx, leader)
	})
}

func (h *story) setSuffrage(ctx context.Context, random *rand.Rand, suffrage domain.Suffrage) {
	i := h.some(random)
	h.change(ctx, "make "+i.id+" a "+string(suffrage), i, func(ctx context.Context, leader *process) error {
		_, err := leader.cluster.Add(ctx, i.as(suffrage), false)
		return err
	})
}

func demote(h *story, random *rand.Rand, ctx context.Context) {
	h.setSuffrage(ctx, random, domain.Nonvoter)
}

func promote(h *story, random *rand.Rand, ctx context.Context) {
	h.setSuffrage(ctx, random, domain.Voter)
}

// remove removes an instance. If the removal succeeded, the instance may be cleared
// and added again.
func remove(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	clear := random.IntN(2) == 0
	h.change(ctx, "remove "+i.id, i, func(ctx context.Context, leader *process) error {
		if _, err := leader.cluster.Remove(ctx, i.id); err != nil || !clear || leader.dead.Load() {
			return err
		}
		if err := h.lose(i, 0); err != nil {
			return err
		}
		_, err := leader.cluster.Add(ctx, i.as(domain.Voter), false)
		return err
	})
}

// lose clears an instance and starts it again after a while.
func (h *story) lose(i *instance, after time.Duration) error {
	if err := i.forget(); err != nil {
		return err
	}
	h.revive(i, after)
	return nil
}

// wipe erases an instance's directory without telling the others. It does so only
// if they are a majority without the instance and none of them has lost data.
func wipe(h *story, random *rand.Rand, ctx context.Context) {
	i := h.some(random)
	down := downtime(random)
	leader := h.leader()
	if leader == nil || !h.losing.TryLock() {
		return
	}
	p := leader.alive()
	h.faults.Go(func() {
		defer h.losing.Unlock()
		if !h.canLose(ctx, p, i) {
			return
		}
		h.trace("the directory of %s is wiped", i.id)
		if err := h.lose(i, down); err != nil {
			h.fail("%v", err)
		}
		for ctx.Err() == nil && !h.isWhole(i) {
			h.pause(ctx, 10*time.Millisecond)
		}
	})
}

// canLose reports whether the other voters are a majority without i, and no change of
// the membership is pending.
func (h *story) canLose(ctx context.Context, leader *process, i *instance) bool {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	roster, err := leader.Roster(short)
	state, _ := leader.State()
	if err != nil || roster.Voters() < 3 || !state.LastCommitted().Roster.Equal(roster) {
		return false
	}
	for _, member := range roster.Instances() {
		if other := h.named(member.ID); other != i && !h.isWhole(other) {
			return false
		}
	}
	return true
}

// isWhole reports whether an instance runs and is not in quarantine, which follows a loss
// of data.
func (h *story) isWhole(i *instance) bool {
	p := i.alive()
	if p == nil {
		return false
	}
	state, _ := p.State()
	return state.Quarantine == ""
}

func (h *story) named(id string) *instance {
	return h.instances[slices.IndexFunc(h.instances, func(i *instance) bool { return i.id == id })]
}

// as returns the instance as a member.
func (i *instance) as(suffrage domain.Suffrage) domain.Instance {
	return domain.Instance{ID: i.id, RaftAddress: i.address, Suffrage: suffrage}
}
