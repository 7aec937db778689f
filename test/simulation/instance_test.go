package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/app"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// instance is one instance of a history, across all its lives.
type instance struct {
	story     *story
	id        string
	address   string
	directory string // of the current life
	lives     int
	bootstrap bool
	timing    consensus.Timing
	disk      *disk

	changing chan struct{} // holds a token during a start or a crash
	current  atomic.Pointer[process]
	ending   sync.WaitGroup // crashed processes that are still being cleaned up
}

// process is one life of an instance.
type process struct {
	*consensus.Node
	nodes    *app.Nodes
	cluster  *app.Cluster
	instance *instance
	port     *port
	life     *life
	dead     atomic.Bool // set by its crash, after which nothing it does counts
	watching sync.WaitGroup
	stop     chan struct{}
}

func newInstance(h *story, n int) *instance {
	random := rand.New(rand.NewPCG(h.seed, uint64(100+n)))
	i := &instance{
		story:     h,
		id:        fmt.Sprintf("i%d", n),
		address:   fmt.Sprintf("i%d:1", n),
		bootstrap: n == 1,
		timing:    h.plan.timing,
		disk:      newDisk(random, h.broken.disk),
		changing:  make(chan struct{}, 1),
	}
	i.directory = i.place()
	if n == 1 && h.plan.believes {
		i.timing.HeartbeatTimeout *= 12
		i.timing.ElectionTimeout *= 12
	}
	return i
}

// place returns the directory of the current life. Each life has its own, so that a
// crashed process can't write into the directory of the next one, and a start need
// not wait for it to end.
func (i *instance) place() string {
	return filepath.Join(i.story.directory, fmt.Sprintf("%s.%d", i.id, i.lives))
}

// alive returns the current process, or nil if there is none.
func (i *instance) alive() *process { return i.current.Load() }

// start begins a life, unless the instance is running.
func (i *instance) start() error {
	i.changing <- struct{}{}
	defer func() { <-i.changing }()
	if i.alive() != nil {
		return nil
	}
	p := &process{instance: i, port: i.story.fabric.newPort(i.address), life: i.disk.open(), stop: make(chan struct{})}
	var err error
	p.Node, err = consensus.New(consensus.Config{
		ID:        i.id,
		Directory: i.directory,
		Backend: logstore.Backend{
			Name: "simulated",
			Open: func(string, *slog.Logger) (logstore.Store, error) { return p.store(), nil },
		},
		Network:   p.port,
		Peers:     peers{p},
		Bootstrap: i.bootstrap,
		Timing:    i.timing,
		Logger:    i.story.logger(i.id),
		Fatal:     func(err error) { i.fatal(p, err) },
	})
	if err != nil {
		return err
	}
	p.nodes = app.NewNodes(p.Node, p.Node, nil)
	p.cluster = app.NewCluster(app.ClusterConfig{
		Inquiry:     app.Inquiry{Self: ports.Identity{RaftID: i.id, Format: consensus.Format}, Local: p.Node, Formats: p.Node, Peers: peers{p}},
		Membership:  p.Node,
		Leadership:  p.Node,
		Promotions:  p.Node,
		ReadIndexer: p.Node,
		Logger:      i.story.logger(i.id),
	})
	if err := p.open(); err != nil {
		p.tidyAway()
		return fmt.Errorf("start %s: %w", i.id, err)
	}
	p.watching.Go(func() { i.story.watch(p) })
	i.current.Store(p)
	i.story.trace("%s starts", i.id)
	return nil
}

// store returns the store of the process. If the process has set the store aside as
// damaged, for which there is no reason here, it fails the history and returns a new
// one.
func (p *process) store() logstore.Store {
	if p.life.running.Err() != nil {
		p.instance.story.fail("%s set its undamaged store aside as damaged", p.instance.id)
		p.instance.disk.wipe()
		p.life = p.instance.disk.open()
	}
	return p.life
}

func (p *process) open() error {
	ctx := context.Background()
	if err := p.Claim(ctx); err != nil {
		return err
	}
	if err := p.Open(ctx); err != nil {
		return err
	}
	return p.cluster.Open(ctx)
}

// crash ends a life abruptly.
func (i *instance) crash() {
	i.changing <- struct{}{}
	defer func() { <-i.changing }()
	p := i.current.Swap(nil)
	if p == nil {
		return
	}
	p.dead.Store(true)
	i.story.trace("%s crashes", i.id)
	p.port.die()
	i.lives++
	before := i.directory
	i.directory = i.place()
	// The files are taken away before the log, so what they say of the log stays
	// true. The lock file stays: otherwise the dying process would find its
	// directory gone, and not step down.
	err := errors.Join(os.Rename(before, i.directory), os.Mkdir(before, 0o700),
		os.Rename(filepath.Join(i.directory, lockName), filepath.Join(before, lockName)))
	if err != nil {
		i.story.fail("keep the files of %s: %v", i.id, err)
	}
	p.life.crash()
	i.ending.Go(p.tidyAway)
}

// lockName is the name of the file that a process keeps locked, here even after its crash.
const lockName = "instance.lock"

// tidyAway closes what is left of a process that no longer counts. The process has
// to notice that it no longer leads, or callers that wait for raft would wait for
// ever.
func (p *process) tidyAway() {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	if err := errors.Join(p.cluster.Close(ctx), p.Close(ctx)); err != nil {
		p.instance.story.fail("close %s: %v", p.instance.id, err)
	}
	p.port.going.Wait()
	close(p.stop)
	p.watching.Wait()
}

// fatal is called where the program would exit, to be restarted by its supervisor.
func (i *instance) fatal(p *process, err error) {
	if p.dead.Load() {
		return // its files are gone
	}
	i.story.trace("%s can't go on: %v", i.id, err)
	if !i.story.expectsFatal(err) {
		i.story.fail("%s can't go on: %v", i.id, err)
	}
	i.story.faults.Go(func() {
		if i.current.Load() == p {
			i.crash()
			i.story.revive(i, 50*time.Millisecond)
		}
	})
}

// forget does what an operator does with a removed instance: it ends the process
// and empties the directory before the next start.
func (i *instance) forget() error {
	for {
		i.crash()
		i.changing <- struct{}{}
		if i.alive() == nil {
			break
		}
		<-i.changing
	}
	defer func() { <-i.changing }()
	i.disk.wipe()
	i.bootstrap = false
	return os.RemoveAll(i.directory)
}

// peers implements ports.Peers for one process, over the fabric.
type peers struct{ from *process }

// Identify implements ports.Peers.
func (p peers) Identify(ctx context.Context, raftAddress string) (identity ports.Identity, err error) {
	err = p.ask(ctx, raftAddress, func(target *process) { identity = target.cluster.Identity() })
	return identity, err
}

// ReadIndex implements ports.Peers.
func (p peers) ReadIndex(ctx context.Context, raftAddress string) (answer ports.ReadIndex, err error) {
	var refusal error
	err = p.ask(ctx, raftAddress, func(target *process) {
		answer.Index, refusal = target.ReadIndex(ctx)
		state, _ := target.State()
		answer.RaftID, answer.ClusterID, answer.Members = target.instance.id, state.ClusterID, state.LastCommitted().Roster.IDs()
	})
	return answer, errors.Join(err, refusal)
}

// ask calls answer with the process at an address. Request and answer travel over the fabric.
func (p peers) ask(ctx context.Context, raftAddress string, answer func(target *process)) error {
	h, here := p.from.instance.story, p.from.instance.address
	if err := h.fabric.travel(ctx, here, raftAddress); err != nil {
		return err
	}
	target := h.at(raftAddress)
	if target == nil || p.from.dead.Load() {
		return errRefused
	}
	answer(target)
	if target.dead.Load() {
		return errReset
	}
	return h.fabric.travel(ctx, raftAddress, here)
}
