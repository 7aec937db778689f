package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

const (
	// promoteInterval is how often the leader checks whether an instance has caught up,
	// and so how much of the log the new voter may lack.
	promoteInterval = 50 * time.Millisecond
	// maxPromotePause is the longest pause between checks of an instance that does not
	// answer, or has lagged for lagPatience.
	maxPromotePause = time.Second
	lagPatience     = 10 * time.Second
	// absentTimeout is after how long a promotion of an instance that is no member is
	// dropped. It is far longer than the addition that goes with it can be under way.
	absentTimeout = 10 * time.Second
)

// promote carries out the promotions while this instance leads. Each has a goroutine of
// its own, so that an instance that does not answer holds up no other.
func (c *Cluster) promote(ctx context.Context) {
	var promoting sync.WaitGroup
	defer promoting.Wait()
	underWay := map[string]context.CancelFunc{}
	for ctx.Err() == nil {
		state, later := c.Local.State()
		var wanted []string
		if state.Leading {
			wanted = state.Promotions
		}
		for id, end := range underWay {
			if !slices.Contains(wanted, id) {
				end()
				delete(underWay, id)
			}
		}
		for _, id := range wanted {
			if underWay[id] == nil {
				one, end := context.WithCancel(ctx)
				underWay[id] = end
				promoting.Go(func() { c.promoteOne(one, id) })
			}
		}
		select {
		case <-later:
		case <-ctx.Done():
		}
	}
}

// promoteOne tries to promote an instance until ctx ends, which is when its promotion is
// done or dropped.
func (c *Cluster) promoteOne(ctx context.Context, id string) {
	var absent, behind time.Time // since when it has been no member, or has lagged; zero: it is, or has not
	pause, failing := promoteInterval, false
	for sleep(ctx, pause-promoteInterval) {
		index, err := c.commitIndex(ctx)
		if !sleep(ctx, promoteInterval) {
			return
		}
		if err == nil {
			absent, err = c.tryPromote(ctx, id, index, absent)
		}
		var lags *lagError
		switch {
		case !errors.As(err, &lags):
			behind = time.Time{}
		case behind.IsZero():
			behind = time.Now()
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil, lags != nil && time.Since(behind) < lagPatience:
			pause, failing = promoteInterval, false
			continue
		case !failing:
			// Log it once, not every second.
			c.Logger.Warn("an instance that is to be a voter can't be made one yet", "id", id, "reason", err)
		}
		pause, failing = min(2*pause, maxPromotePause), true
	}
}

// sleep waits for d; false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// lagError is how far an instance lags.
type lagError struct {
	blank          bool
	applied, index uint64
}

func (e *lagError) Error() string {
	if e.blank {
		return "it is blank, or in quarantine"
	}
	return fmt.Sprintf("it has carried out the log up to %d, and has to come to %d", e.applied, e.index)
}

// commitIndex returns the index up to which an instance has to have applied the log, when
// it is asked after this, to have caught up.
func (c *Cluster) commitIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.ReadIndexer.ReadIndex(ctx)
}

// tryPromote finishes the promotion of id, unless it lags behind index (lagError) or does
// not answer. An instance that is no member yet is waited for, until absentTimeout after
// absent; tryPromote returns the new value of absent.
func (c *Cluster) tryPromote(ctx context.Context, id string, index uint64, absent time.Time) (time.Time, error) {
	state, _ := c.Local.State()
	seen, isMember := state.Roster.Find(id)
	switch {
	case !isMember && absent.IsZero():
		return time.Now(), nil
	case !isMember && time.Since(absent) < absentTimeout:
		return absent, nil
	case isMember && seen.Suffrage != domain.Voter:
		identity, err := c.identifyMember(ctx, id, seen.RaftAddress)
		switch {
		case err != nil:
			return time.Time{}, err
		case isBlank(identity), identity.Applied < index:
			return time.Time{}, &lagError{isBlank(identity), identity.Applied, index}
		}
	}
	return time.Time{}, c.finishPromotion(ctx, id, seen)
}

// finishPromotion makes id a voter, if its membership is still as seen, and removes its
// promotion.
func (c *Cluster) finishPromotion(ctx context.Context, id string, seen domain.Instance) error {
	roster, release, err := c.lockMembership(ctx)
	if err != nil {
		return err
	}
	defer release()
	now, _ := roster.Find(id)
	switch {
	case !c.promotionWanted(id), now != seen:
		return nil // it was demoted, removed, added or moved since
	case now.Suffrage == domain.Nonvoter:
		now.Suffrage = domain.Voter
		if err := c.Membership.Add(ctx, now); err != nil {
			return err
		}
		c.Logger.Info("an instance has caught up and is a voter now", "id", id)
	}
	return c.Promotions.RemovePromotion(ctx, id)
}
