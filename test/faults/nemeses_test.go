package faults

import (
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

// nemesis is a kind of fault. The fault has ended when strike returns.
type nemesis struct {
	name    string
	cluster string // name of its kind of cluster
	elects  bool   // the cluster can't survive it without an election
	aside   bool   // only clients of the disturbed instance notice it
	smoke   bool   // it runs even without flags
	strike  func(f *field)
}

// outage is longer than an election takes, and longer than a leader's lease.
const outage = 1500 * time.Millisecond

var nemeses = []nemesis{
	{name: "kill -9 of the leader", cluster: three, elects: true, smoke: true, strike: func(f *field) {
		leader := f.Leader()
		f.kill(leader)
		f.Successor(leader)
		f.restart(leader)
	}},
	{name: "kill -9 of a follower", cluster: three, aside: true, strike: func(f *field) {
		follower := f.follower()
		f.kill(follower)
		f.pass(outage)
		f.restart(follower)
	}},
	{name: "kill -9 of all", cluster: three, elects: true, strike: func(f *field) {
		f.kill(f.Instances...)
		f.restart(f.Instances...)
	}},
	{name: "power cut of all: their files end torn", cluster: three, elects: true, strike: func(f *field) {
		f.kill(f.Instances...)
		for _, i := range f.Instances {
			f.tear(i)
		}
		f.restart(f.Instances...)
	}},
	{name: "SIGTERM of the leader", cluster: three, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.stop(leader)
		f.restart(leader)
	}},
	{name: "pause of the leader", cluster: three, elects: true, smoke: true, strike: func(f *field) {
		leader := f.Leader()
		f.pause(leader)
		f.Successor(leader)
		f.pass(outage)
		f.resume(leader)
	}},
	{name: "pause of a follower", cluster: three, aside: true, strike: func(f *field) {
		follower := f.follower()
		f.pause(follower)
		f.pass(outage)
		f.resume(follower)
	}},
	{name: "pauses of the leader, whoever leads", cluster: three, strike: func(f *field) {
		for range 8 {
			leader := f.Leader()
			f.pause(leader)
			f.pass(time.Duration(f.random.Int64N(int64(outage))))
			f.resume(leader)
		}
	}},
	{name: "pause of all", cluster: three, strike: func(f *field) {
		for _, i := range f.Instances {
			f.pause(i)
		}
		f.pass(outage)
		for _, n := range f.random.Perm(len(f.Instances)) {
			f.resume(f.Instances[n])
		}
	}},
	{name: "slow follower", cluster: three, aside: true, strike: func(f *field) {
		follower := f.follower()
		for range 15 {
			f.pause(follower)
			f.pass(80 * time.Millisecond)
			f.resume(follower)
			f.pass(20 * time.Millisecond)
		}
	}},
	{name: "leader cut off", cluster: three, elects: true, smoke: true, strike: func(f *field) {
		leader := f.Leader()
		f.cut([]*harness.Instance{leader}, f.others(leader))
		f.Successor(leader)
		f.pass(outage)
		f.heal()
	}},
	{name: "leader cut off, from clients as well", cluster: three, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.cut([]*harness.Instance{leader}, f.others(leader))
		f.cutFromClients(leader)
		f.Successor(leader)
		f.pass(outage)
		f.heal()
	}},
	{name: "leader can send and hears nothing", cluster: three, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.drop(f.others(leader), []*harness.Instance{leader})
		f.Successor(leader)
		f.pass(outage)
		f.heal()
	}},
	{name: "leader hears and can't send", cluster: three, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.drop([]*harness.Instance{leader}, f.others(leader))
		f.Successor(leader)
		f.pass(outage)
		f.heal()
	}},
	{name: "follower cut off", cluster: three, strike: func(f *field) {
		follower := f.follower()
		f.cut([]*harness.Instance{follower}, f.others(follower))
		f.pass(outage)
		f.heal()
	}},
	{name: "follower can send and hears nothing", cluster: three, strike: func(f *field) {
		follower := f.follower()
		f.drop(f.others(follower), []*harness.Instance{follower})
		f.pass(outage)
		f.heal()
	}},
	{name: "follower hears and can't send", cluster: three, strike: func(f *field) {
		follower := f.follower()
		f.drop([]*harness.Instance{follower}, f.others(follower))
		f.pass(outage)
		f.heal()
	}},
	{name: "all links cut", cluster: three, elects: true, strike: func(f *field) {
		for _, i := range f.Instances {
			f.cut([]*harness.Instance{i}, f.others(i))
		}
		f.pass(2 * outage)
		f.heal()
	}},
	{name: "leadership handed over", cluster: three, elects: true, strike: func(f *field) {
		f.handOver(f.follower())
	}},
	{name: "leader removed and added again", cluster: three, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.remove(leader)
		f.addAgain(leader)
	}},
	{name: "follower removed and added again", cluster: three, strike: func(f *field) {
		follower := f.follower()
		f.remove(follower)
		f.addAgain(follower)
	}},
	{name: "follower comes back without its data", cluster: three, strike: func(f *field) {
		follower := f.follower()
		f.kill(follower)
		follower.Wipe()
		f.restart(follower)
	}},
	{name: "leader comes back without its data", cluster: three, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.kill(leader)
		leader.Wipe()
		f.Successor(leader)
		f.restart(leader)
	}},
	{name: "follower demoted and promoted", cluster: three, aside: true, strike: func(f *field) {
		follower := f.follower()
		f.setSuffrage(follower, "nonvoter")
		f.pass(outage)
		f.setSuffrage(follower, "voter")
	}},
	{name: "restart storm", cluster: three, strike: func(f *field) {
		for range 4 {
			for _, i := range f.Instances {
				f.kill(i)
				f.restart(i)
			}
		}
	}},
	{name: "leader alone of five", cluster: five, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.cut([]*harness.Instance{leader}, f.others(leader))
		f.Successor(leader)
		f.pass(outage)
		f.heal()
	}},
	{name: "leader in a minority of two", cluster: five, elects: true, strike: func(f *field) {
		leader, others := f.Leader(), f.shuffled()
		f.cut([]*harness.Instance{leader, others[0]}, others[1:])
		f.Successor(leader)
		f.pass(outage)
		f.heal()
	}},
	{name: "leader in a majority of three", cluster: five, strike: func(f *field) {
		leader, others := f.Leader(), f.shuffled()
		f.cut([]*harness.Instance{leader, others[0], others[1]}, others[2:])
		f.pass(outage)
		f.heal()
	}},
	{name: "bridge: one sees both halves", cluster: five, strike: func(f *field) {
		leader, others := f.Leader(), f.shuffled() // others[3] connects the two sides
		f.cut([]*harness.Instance{leader, others[0]}, others[1:3])
		f.pass(outage)
		f.heal()
	}},
	{name: "bridge is the leader", cluster: five, strike: func(f *field) {
		others := f.shuffled()
		f.cut(others[:2], others[2:])
		f.pass(outage)
		f.heal()
	}},
	{name: "kill -9 of two, the leader among them", cluster: five, elects: true, strike: func(f *field) {
		leader, others := f.Leader(), f.shuffled()
		f.kill(leader, others[0])
		f.Successor(leader)
		f.restart(leader, others[0])
	}},
	{name: "full disk of the leader", cluster: smallDisks, elects: true, strike: func(f *field) {
		leader := f.Leader()
		f.fill(leader)
		f.Successor(leader)
		f.pass(outage)
		f.free(leader)
	}},
	{name: "full disk of a follower", cluster: smallDisks, strike: func(f *field) {
		follower := f.follower()
		f.fill(follower)
		f.pass(2 * outage)
		f.free(follower)
	}},
	{name: "full disks of all", cluster: smallDisks, strike: func(f *field) {
		f.fill(f.Instances...)
		f.pass(2 * outage)
		f.free(f.Instances...)
	}},
}
