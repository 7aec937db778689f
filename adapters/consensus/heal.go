package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/snapshots"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
)

// openStore opens the store, and reads everything in the directory before raft does. If
// something needed is damaged, it sets everything aside, and this instance goes on in
// quarantine, to get its state from the others. If it knows of no others, it does not start.
func (n *Node) openStore(ctx context.Context) error {
	store, faults, err := n.openAndInspect(ctx)
	if err != nil {
		return err
	}
	if len(faults) == 0 {
		n.store = store
		return nil
	}
	if store != nil {
		faults = append(faults, asFaults(store.Close())...)
	}
	if err := n.setAside(faults); err != nil {
		return err
	}
	n.store, err = n.config.Backend.Open(n.directory.Path(), n.config.Logger)
	if err != nil {
		return fmt.Errorf("open the %s log store anew: %w", n.config.Backend.Name, err)
	}
	return nil
}

// openAndInspect returns the store, and the faults of the store and the snapshots that the
// instance can't do without. If the store can't be opened, it may return only faults.
func (n *Node) openAndInspect(ctx context.Context) (logstore.Store, []Fault, error) {
	store, err := n.config.Backend.Open(n.directory.Path(), n.config.Logger)
	switch {
	case errors.Is(err, logstore.ErrDamaged):
		return nil, asFaults(err), nil
	case err != nil:
		return nil, nil, fmt.Errorf("open the %s log store: %w", n.config.Backend.Name, err)
	case n.config.Backend.Volatile:
		return store, nil, nil
	}
	report, err := inspectOpen(ctx, n.directory, store)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	if report.Empty && !n.wasAlone() {
		n.removeLeftovers(report.Leftovers)
		return store, nil, nil // a quarantine or a bootstrap follows
	}
	var needed []Fault
	for _, fault := range report.Faults {
		if fault.Spare {
			n.config.Logger.Warn("something is damaged that this instance has all without", "error", fault, "help", fault.Help)
			continue
		}
		needed = append(needed, fault)
	}
	if len(needed) > 0 {
		return store, needed, nil
	}
	n.preloaded, n.unusable = report.newest, report.unusable
	n.removeLeftovers(report.Leftovers)
	if report.damagedThrough > 0 {
		// The newest snapshot has these entries. A leader that read one of them to send it
		// would end. A process that was killed may have renamed that snapshot into place, and
		// not have made its name durable: that comes before the removal, which is durable.
		if err := snapshots.SyncNames(n.directory.Path()); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("make the snapshots durable: %w", err), store.Close())
		}
		if err := store.DeleteRange(report.FirstIndex, report.damagedThrough); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("remove the damaged entries that a snapshot contains: %w", err), store.Close())
		}
		n.config.Logger.Info("removed the damaged beginning of the log, which a snapshot has", "from", report.FirstIndex, "to", report.damagedThrough)
	}
	return store, nil, nil
}

// removeLeftovers removes the leftovers of snapshots. An error does no harm.
func (n *Node) removeLeftovers(leftovers []string) {
	for _, path := range leftovers {
		if err := snapshots.Remove(path); err != nil {
			n.config.Logger.Warn("the remains of a snapshot could not be removed", "path", path, "error", err)
			continue
		}
		n.config.Logger.Info("removed what was left of a snapshot when this instance last ended", "path", path)
	}
}

func asFaults(err error) []Fault {
	if err == nil {
		return nil
	}
	return []Fault{{What: err}}
}

// setAside moves everything away from where raft would find it. It returns an error if the
// faults are no damage, or no other instance is known to have the data.
func (n *Node) setAside(faults []Fault) error {
	what := make([]error, len(faults))
	for i, fault := range faults {
		what[i] = fault
		switch {
		case isOfUnknownFormat(fault.What):
			return fmt.Errorf("%w: %s", fault, helpNewer)
		case logstore.IsRefusal(fault.What):
			return fmt.Errorf("%w: %s", fault, helpRefused)
		case errors.Is(fault.What, errTwoClusters):
			return fmt.Errorf("%w: %s", fault, fault.Help)
		}
	}
	all := errors.Join(what...)
	if !n.hasPeers() {
		return fmt.Errorf("%w\nnobody is known who has the same: look with `nodesmetadata storage check --raft_dir %s`; if there are others in its cluster, let it join anew with an empty directory; if it is alone, restore the directory from a copy",
			all, n.directory.Path())
	}
	// The mark comes first: without it, what remains would look like a new directory.
	if err := quarantine(n.directory, "what it had was damaged"); err != nil {
		return err
	}
	folder, err := n.directory.SetAside(time.Now())
	if err != nil {
		return fmt.Errorf("%w\nit could not be set aside: %w", all, err)
	}
	n.config.Logger.Error("the directory is damaged: what was in it is set aside, and this instance gets everything from the others, once a leader has made it a nonvoter",
		"error", all, "set_aside", folder)
	return quarantine(n.directory, "what it had was damaged, and was moved to "+folder)
}
