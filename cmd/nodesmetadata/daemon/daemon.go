// Package daemon puts an instance together: it is the only package that knows
// every other one, and the only one that imports fx. Tests get the production
// graph from it, in their own process.
//
// It has no influence on how a request is answered. It decides in which order the
// parts start and stop (lifecycle.go), what they are made of (graph.go), where logs
// and metrics go, and what is logged at start.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.uber.org/fx"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/config"
	"github.com/nodesmetadata/nodesmetadata/cmd/nodesmetadata/offline"
)

// Run is the program. args are without its name, environ is as of os.Environ. It returns
// the exit status. Without a verb it runs an instance until ctx ends, or until the
// instance can't start or go on. With a verb it carries that out. The status is 0 for
// success and for an instance that stopped as asked; 1 if it could not start, go on or
// stop in time, or as of offline.Run; 2 if args or environ are wrong and nothing was
// touched.
func Run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "version" {
		return sayVersion(args[1:], stdout, stderr)
	}
	if len(args) > 0 && offline.Knows(args[0]) {
		return offline.Run(ctx, args, backends, stdout, stderr)
	}
	chosen, err := config.Load(args, environ)
	switch {
	case errors.Is(err, config.ErrHelp):
		return sayUsage(stdout)
	case errors.Is(err, config.ErrVersion):
		return sayVersion(nil, stdout, stderr)
	case err != nil:
		return config.SayMisused(stderr, "nodesmetadata --help", err)
	}
	// The reader of the log may go away. By default the next line would then end the
	// process.
	signal.Ignore(syscall.SIGPIPE)
	d, err := New(chosen, stderr)
	if err != nil {
		config.Complain(stderr, err)
		return config.Failed
	}
	if operatorTunes(environ) {
		return d.run(ctx)
	}
	tidying, stop := context.WithCancel(context.WithoutCancel(ctx))
	var done sync.WaitGroup
	done.Go(func() { tidy(tidying) })
	defer done.Wait()
	defer stop()
	return d.run(ctx)
}

func sayUsage(stdout io.Writer) int {
	_, _ = io.WriteString(stdout, config.Usage(offline.Verbs()))
	return config.Done
}

// sayVersion carries out the verb version. It takes no arguments but a request for help.
func sayVersion(rest []string, stdout, stderr io.Writer) int {
	if slices.Contains(rest, "--help") || slices.Contains(rest, "-h") {
		return sayUsage(stdout)
	}
	var strays []error
	for _, stray := range rest {
		strays = append(strays, fmt.Errorf("unexpected argument: %q", stray))
	}
	if err := errors.Join(strays...); err != nil {
		return config.SayMisused(stderr, "nodesmetadata --help", err)
	}
	_, _ = fmt.Fprintln(stdout, "nodesmetadata", Version())
	return config.Done
}

// Daemon is one instance.
type Daemon struct {
	config config.Config
	app    *fx.App
	log    *slog.Logger
	logs   *logWriter
	node   *consensus.Node
	failed chan error // holds why the instance can't go on
}

// New puts an instance together. It acquires nothing. The instance logs to logs: one
// goroutine at a time writes to it, one line at a time.
func New(chosen config.Config, logs io.Writer) (*Daemon, error) {
	chosen, err := choosePorts(chosen)
	if err != nil {
		return nil, err
	}
	if chosen, err = keepBackend(chosen); err != nil {
		return nil, err
	}
	d := &Daemon{config: chosen, failed: make(chan error, 1)}
	d.app = fx.New(
		graph(chosen, logs, d.fail),
		fx.Populate(&d.log, &d.logs, &d.node),
	)
	if err := d.app.Err(); err != nil {
		return nil, err
	}
	return d, nil
}

// Config returns the configuration of the instance, with the chosen port in place of each
// port 0.
func (d *Daemon) Config() config.Config { return d.config }

// Open starts the instance and returns when it serves. It does not wait for other
// instances. If it fails it releases what it acquired.
func (d *Daemon) Open(ctx context.Context) error {
	d.greet()
	began := time.Now()
	if err := d.app.Start(ctx); err != nil {
		return err
	}
	d.log.Info("instance is serving", "took", time.Since(began).Round(time.Millisecond))
	state, _ := d.node.State()
	switch {
	case len(d.config.Join) > 0:
	case state.RosterRaftAddress != "":
		d.log.Warn("the raft cluster has this instance at another raft address, where others look for it: start it at that one, or with --join, or tell the leader (PUT /raft/node)",
			"address", d.config.RaftAdvertisedAddress, "member_at", state.RosterRaftAddress)
	case state.ClusterID == "" && !state.Member && !d.config.BootstrapRaftCluster:
		d.log.Info("this instance belongs to no raft cluster: it waits to be added (PUT /raft/node on the leader)",
			"address", d.config.RaftAdvertisedAddress)
	}
	return nil
}

// Close hands over leadership, ends what is in flight and releases everything,
// within ctx; when that ends first, the rest is left as it is and ctx's error
// returned.
func (d *Daemon) Close(ctx context.Context) error { return d.app.Stop(ctx) }

func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default: // one reason is enough
	}
}

func (d *Daemon) run(ctx context.Context) int {
	defer d.logs.flush(lastPatience)
	// A signal does not interrupt the start: only an instance that is open can be
	// closed in an orderly way. A second signal ends the process.
	if err := d.Open(context.WithoutCancel(ctx)); err != nil {
		d.log.Error("instance could not start", "error", err)
		return config.Failed
	}
	status := config.Done
	select {
	case <-ctx.Done():
		d.log.Info("instance is stopping")
	case err := <-d.failed:
		d.log.Error("instance can't go on", "error", err)
		status = config.Failed
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.config.ShutdownTimeout)
	defer cancel()
	err := d.Close(closing)
	select {
	case failure := <-d.failed: // it failed while it stopped, or just before
		d.log.Error("instance could not go on while it stopped", "error", failure)
		status = config.Failed
	default:
	}
	if err != nil {
		d.log.Error("instance did not stop in an orderly way", "error", err)
		return config.Failed
	}
	d.log.Info("instance has stopped")
	return status
}

// keepBackend chooses the backend that wrote the directory, unless the operator gave one: an
// instance must not fail to start because a later build has another default. It returns an
// error if this build lacks the backend that wrote the directory, because then it can neither
// use nor convert the directory.
func keepBackend(c config.Config) (config.Config, error) {
	wrote, found := logstore.WrittenBy(c.RaftDir)
	if !found {
		return c, nil
	}
	if _, err := backends.Named(wrote); err != nil {
		return c, fmt.Errorf("%w, which this build lacks: %s: %w: start the instance, or convert the directory, with a build that has that one",
			logstore.ErrOtherBackend, c.RaftDir, err)
	}
	if !c.StorageBackendGiven {
		c.StorageBackend = wrote
	}
	return c, nil
}

// greet logs what an operator would ask first, and warns of what may surprise.
func (d *Daemon) greet() {
	c := d.config
	d.log.Info("instance is starting",
		"version", Version(),
		"raft_dir", c.RaftDir,
		"storage_backend", c.StorageBackend,
		"raft_bind_address", c.RaftBindAddress,
		"raft_advertised_address", c.RaftAdvertisedAddress,
		"application_bind_address", c.ApplicationBindAddress,
		"application_advertised_address", c.ApplicationAdvertisedAddress,
	)
	if !c.StorageBackendGiven && c.StorageBackend != config.DefaultBackend {
		d.log.Info("no --storage_backend is given, and the directory was written by one that is not the default: the instance goes on with it",
			"storage_backend", c.StorageBackend, "default", config.DefaultBackend)
	}
	for _, warning := range c.Warnings {
		d.log.Warn(warning)
	}
	if chosen, _ := backends.Named(c.StorageBackend); chosen.Volatile {
		d.log.Warn("the storage backend forgets everything when the process ends: it is for trials", "storage_backend", c.StorageBackend)
	}
	if len(c.Secret) == 0 {
		d.log.Warn("no --raft_secret_file is given: whoever reaches the raft port can take part in the cluster")
	}
}
