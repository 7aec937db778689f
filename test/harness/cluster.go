package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Options say what a Cluster consists of. The zero value is three instances with
// the wal backend on 127.0.0.1.
type Options struct {
	Size    int    // zero: 3
	Backend string // empty: wal
	IPv6    bool   // on ::1 instead of 127.0.0.1
	Proxied bool   // with a Proxy before every raft port
	// Network has at least Size hosts: the first instance runs on host 1, the
	// second on host 2, and so on. If it is nil, all run on this machine's
	// loopback.
	Network *Network
	// DiskSize is the size in bytes of a separate file system for the directory of
	// each instance on a Network. Zero means no separate file system.
	DiskSize int
	Files    int // limit of open files for each instance; zero: that of this process
	Flags    []string
	Env      []string // NAME=value
	Build    Build
}

// Cluster is a set of instances that may form a raft cluster.
type Cluster struct {
	Instances []*Instance

	t    testing.TB
	host string
}

// New makes a cluster but starts nothing. When t ends, all processes are killed,
// and their logs are shown if t failed. t fails if a process exited by itself,
// panicked, or had a data race.
func New(t testing.TB, options Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, host: "127.0.0.1"}
	if options.IPv6 {
		c.host = "::1"
	}
	options.Size = cmp.Or(options.Size, 3)
	options.Backend = cmp.Or(options.Backend, "wal")
	program := Program(t, options.Build)
	directory := t.TempDir()
	for n := range options.Size {
		c.add(n+1, program, directory, options)
	}
	return c
}

func (c *Cluster) add(number int, program, directory string, options Options) {
	c.t.Helper()
	id := fmt.Sprintf("n%d", number)
	i := &Instance{
		ID:        id,
		Host:      number,
		Directory: filepath.Join(directory, id),
		Flags:     append([]string{"--storage_backend=" + options.Backend}, options.Flags...),
		t:         c.t,
		program:   program,
		environ:   append(plainEnviron(), options.Env...),
		files:     options.Files,
		logPath:   filepath.Join(directory, id+".log"),
		spawner:   shared.children,
	}
	if network := options.Network; network != nil {
		// Nothing else runs on that host, so any port is free.
		i.RaftBind, i.Application = network.Address(number)+":8008", network.Address(number)+":8080"
		i.spawner = network.hosts[number-1]
		if options.DiskSize > 0 {
			c.mount(i, options.DiskSize)
		}
	} else {
		i.RaftBind, i.Application = Address(c.t, c.host), Address(c.t, c.host)
	}
	i.RaftAddress = i.RaftBind
	if options.Proxied {
		i.Proxy = NewProxy(c.t, c.host, i.RaftBind)
		i.RaftAddress = i.Proxy.Address()
	}
	i.Client = NewClient(c.t, i.Application)
	c.Instances = append(c.Instances, i)
	c.t.Cleanup(i.clean)
}

func (c *Cluster) mount(i *Instance, size int) {
	c.t.Helper()
	err := os.Mkdir(i.Directory, 0o700)
	if err == nil {
		err = i.spawner.mount(i.Directory, size)
	}
	if err != nil {
		c.t.Fatalf("harness: %v", err)
	}
}

// Start returns a running cluster whose instances are all ready. See Bootstrap.
func Start(t testing.TB, options Options) *Cluster {
	t.Helper()
	c := New(t, options)
	c.Bootstrap()
	return c
}

// Bootstrap starts the first instance as a cluster of its own, starts the others,
// adds them by PUT /raft/node, and waits until all are ready.
func (c *Cluster) Bootstrap() {
	c.t.Helper()
	first, others := c.Instances[0], c.Instances[1:]
	first.Flags = append(first.Flags, "--bootstrap_raft_cluster")
	for _, i := range c.Instances {
		i.Launch()
	}
	first.AwaitReady()
	for _, i := range others {
		i.AwaitServing()
		c.admit(first, i)
	}
	c.AwaitReady()
}

// admit adds an instance. On a busy machine the leader may change meanwhile; whatever
// became of the request, it may be repeated.
func (c *Cluster) admit(through, joining *Instance) {
	c.t.Helper()
	Eventually(c.t, "add "+joining.ID, func() error {
		err := through.RaftAdd(c.t.Context(), joining.Member())
		if problem := new(Problem); err != nil && (!errors.As(err, &problem) || problem.Answer.Status != http.StatusServiceUnavailable) {
			c.t.Fatalf("add %s: %v", joining.ID, err)
		}
		return err
	})
}

// Member returns the instance as PUT /raft/node takes it.
func (i *Instance) Member() Member { return Member{ID: i.ID, Address: i.RaftAddress} }

// AwaitReady waits until all running instances are ready.
func (c *Cluster) AwaitReady() {
	c.t.Helper()
	for _, i := range c.Running() {
		i.AwaitReady()
	}
}

// Running returns the instances whose processes run, including paused ones.
func (c *Cluster) Running() []*Instance {
	var running []*Instance
	for _, i := range c.Instances {
		if i.Running() {
			running = append(running, i)
		}
	}
	return running
}

// Leader waits for the leader: an instance that says it leads, while no other says
// so with the same or a later term.
func (c *Cluster) Leader() *Instance {
	c.t.Helper()
	var leader *Instance
	Eventually(c.t, "there is a leader", func() error {
		var err error
		leader, err = c.findLeader()
		return err
	})
	return leader
}

func (c *Cluster) findLeader() (*Instance, error) {
	var leader *Instance
	var term uint64
	var seen []string
	for _, i := range c.Running() {
		ready, err := i.readyWithin(time.Second)
		if err != nil {
			seen = append(seen, fmt.Sprintf("%s: %v", i.ID, err))
			continue
		}
		if ready.Leading && ready.Term > term {
			leader, term = i, ready.Term
		}
		seen = append(seen, fmt.Sprintf("%s: leading %v in term %d", i.ID, ready.Leading, ready.Term))
	}
	if leader == nil {
		return nil, errors.New(strings.Join(seen, "; "))
	}
	return leader, nil
}

// Successor waits until an instance other than old leads. It does not ask old,
// which may be paused.
func (c *Cluster) Successor(old *Instance) *Instance {
	c.t.Helper()
	var successor *Instance
	Eventually(c.t, "an instance other than "+old.ID+" leads", func() error {
		for _, i := range c.Running() {
			if i == old {
				continue
			}
			if ready, err := i.readyWithin(time.Second); err == nil && ready.Leading {
				successor = i
				return nil
			}
		}
		return errors.New("no other instance leads")
	})
	return successor
}

// readyWithin is Ready with a timeout, for an instance that may be paused.
func (i *Instance) readyWithin(d time.Duration) (Readiness, error) {
	ctx, cancel := context.WithTimeout(i.t.Context(), d)
	defer cancel()
	return i.Ready(ctx)
}

// Followers returns the running instances that are not the leader.
func (c *Cluster) Followers() []*Instance {
	c.t.Helper()
	leader := c.Leader()
	return slices.DeleteFunc(c.Running(), func(i *Instance) bool { return i == leader })
}

// Clients returns the clients of all instances, running or not.
func (c *Cluster) Clients() []*Client {
	var clients []*Client
	for _, i := range c.Instances {
		clients = append(clients, i.Client)
	}
	return clients
}
