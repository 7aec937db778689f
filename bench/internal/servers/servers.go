// Package servers runs the servers that are measured, as real processes on
// loopback: a cluster of nodesmetadata, one of etcd for comparison, and a bare
// net/http server as the bound of both. All of them hold cache nodes and answer the
// same requests, each through its own protocol.
package servers

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Kind is one kind of server.
type Kind interface {
	Name() string
	// Cluster returns a cluster with the given number of members and an empty
	// registry. It is not started. It keeps its files in the existing directory.
	Cluster(directory string, members int) (*Cluster, error)
}

// ErrUnsupported means that this kind of server lacks an operation.
var ErrUnsupported = errors.New("this kind of server has no such thing")

// Protocol is how to talk to one kind of server.
type Protocol interface {
	// Grow makes the registry hold the nodes 0 to n-1. It never removes nodes.
	Grow(n int) error
	// Dial returns a client of one member. The client may connect later.
	Dial(member int) (Client, error)
	// Subscribe opens a stream of all changes from now on. The member must be the leader.
	Subscribe(member int) (Stream, error)
	// Ready reports whether the member leads. It is an error if the member does not take
	// part yet.
	Ready(member int) (leads bool, err error)
	Close()
}

// Freshness is the guarantee of a read.
type Freshness int

const (
	// Linearizable reads are sent to the leader.
	Linearizable Freshness = iota
	// FromFollower reads are as fresh, but are sent to a follower.
	FromFollower
	// Stale reads get whatever a follower has.
	Stale
)

// Client does one operation at a time and checks the answers.
type Client interface {
	// Put sets the weight of a node, which must differ from its last one.
	Put(node, weight int) error
	// Batch sets the weight of size nodes, beginning with from: all or none.
	Batch(from, size, weight int) error
	Get(node int, f Freshness) error
	// List reads all nodes, and checks that there are that many.
	List(nodes int) error
	// Renew renews the time to live that Lease gave to the node.
	Lease(node int) error
	Renew(node int) error
	// SetTimeout limits every later call.
	SetTimeout(time.Duration)
	Close()
}

// Stream delivers the positions of changes. Close unblocks Next.
type Stream interface {
	Next() (Event, error)
	Close()
}

// Event is a change, or a snapshot that stands for all changes up to it.
type Event struct {
	Revision int64
	Snapshot bool
}

// Cluster is a set of server processes with their protocol.
type Cluster struct {
	Protocol
	Members []*Process
}

// Start starts all members and waits until they are ready. Stop must be called even if it fails.
func (c *Cluster) Start() error {
	for _, m := range c.Members {
		if err := m.Start(); err != nil {
			return err
		}
	}
	return c.AwaitReady()
}

// patience is how long a server may take to become ready.
const patience = 60 * time.Second

// Leader waits until a member says that it leads.
func (c *Cluster) Leader() (int, error) {
	leader := -1
	err := eventually(func() error {
		for i := range c.Members {
			if leads, err := c.Ready(i); err == nil && leads {
				leader = i
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leader, err
}

// Follower returns a member that does not lead.
func (c *Cluster) Follower() (int, error) {
	leader, err := c.Leader()
	if len(c.Members) < 2 {
		return 0, ErrUnsupported
	}
	return (leader + 1) % len(c.Members), err
}

// AwaitReady waits until all members take part and one of them leads.
func (c *Cluster) AwaitReady() error {
	for i, member := range c.Members {
		err := eventually(func() error {
			_, err := c.Ready(i)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", member.name, err)
		}
	}
	_, err := c.Leader()
	return err
}

// Stop ends all processes and waits until they have exited.
func (c *Cluster) Stop() error {
	c.Close()
	var faults []error
	for _, m := range c.Members {
		faults = append(faults, m.Signal(syscall.SIGKILL))
	}
	for _, m := range c.Members {
		faults = append(faults, m.Wait())
	}
	return errors.Join(faults...)
}

// Sum adds up a value of all members.
func (c *Cluster) Sum(of func(*Process) (int64, error)) (int64, error) {
	var sum int64
	for _, m := range c.Members {
		n, err := of(m)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// CPU returns the processor time that the running members have used.
func (c *Cluster) CPU() (time.Duration, error) {
	sum, err := c.Sum(func(p *Process) (int64, error) {
		used, err := p.CPU()
		return int64(used), err
	})
	return time.Duration(sum), err
}

func eventually(ask func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still after %v: %w", patience, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func nodeID(n int) string { return fmt.Sprintf("node%05d", n) }

// appendNode appends a node as sent in a registration. Every node has its own address.
func appendNode(to []byte, n, weight int) []byte {
	return fmt.Appendf(to, `{"id":"node%05d","address":"10.%d.%d.%d:11211","zone":"eu-1a","weight":%d}`,
		n, n>>16, n>>8&255, n&255, weight)
}

// stored returns a node as nodesmetadata answers it, for servers that store the given bytes.
func stored(n, weight int) []byte {
	return fmt.Appendf(nil, `{"id":"node%05d","address":"10.%d.%d.%d:11211","pool":"default","weight":%d,"zone":"eu-1a","state":"active","slot":%d,"createdRevision":%d,"revision":%d}`,
		n, n>>16, n>>8&255, n&255, weight, n, n+1, n+1)
}

func process(name, path, directory string, args ...string) *Process {
	return &Process{
		name:   name,
		path:   path,
		args:   args,
		data:   filepath.Join(directory, name),
		output: filepath.Join(directory, name+".log"),
	}
}

func memberName(n int) string { return "n" + strconv.Itoa(n+1) }
