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
	// promoteInterval is how often the leader looks how far an instance has come
	// that is to be a voter, and so how much of the log it may lack.
	promoteInterval = 50 * time.Millisecond
	// maxPromotePause is how long it leaves one alone that does not answer, or has
	// lagged for lagPatience.
	maxPromotePause = time.Second
	lagPatience     = 10 * time.Second
	// absentTimeout is far longer than a change of the membership can be under
	// way: who is no member then will not be one because of that wish.
	absentTimeout = 10 * time.Second
)

// promote makes voters of those who are to be voters and have caught up, as long
// as this instance leads. Each has a goroutine of its own: who does not answer
// holds up nobody else.
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

// promoteOne goes on until it is ended, which is when nobody wants it any more.
func (c *Cluster) promoteOne(ctx context.Context, id string) {
	var absent, behind time.Time // since when it is no member, or lags; zero for not
	pause, failing := promoteInterval, false
	for waited(ctx, pause-promoteInterval) {
		index, err := c.committed(ctx)
		if !waited(ctx, promoteInterval) {
			return
		}
		if err == nil {
			absent, err = c.advance(ctx, id, index, absent)
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
			// Once, not every second for as long as it takes.
			c.Logger.Warn("an instance that is to be a voter can't be made one yet", "id", id, "reason", err)
		}
		pause, failing = min(2*pause, maxPromotePause), true
	}
}

// waited is false when ctx ends first.
func waited(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// lagError says how far an instance is that has not caught up.
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

// committed is how far an instance has to be, when it is asked after that, to
// have caught up.
func (c *Cluster) committed(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return c.ReadIndexer.ReadIndex(ctx)
}

// advance does with id what is next: nothing, while it lags behind index, which is a
// lagError, or has not been absent, which is no error, for long.
func (c *Cluster) advance(ctx context.Context, id string, index uint64, absent time.Time) (time.Time, error) {
	state, _ := c.Local.State()
	seen, isMember := state.Roster.Find(id)
	switch {
	case !isMember && absent.IsZero():
		return time.Now(), nil
	case !isMember && time.Since(absent) < absentTimeout:
		return absent, nil
	case isMember && seen.Suffrage != domain.Voter:
		identity, err := c.hearFrom(ctx, id, seen.RaftAddress)
		switch {
		case err != nil:
			return time.Time{}, err
		case isBlank(identity), identity.Applied < index:
			return time.Time{}, &lagError{isBlank(identity), identity.Applied, index}
		}
	}
	return time.Time{}, c.conclude(ctx, id, seen)
}

// conclude makes a voter of id, where it is still as it was seen, and settles its
// promotion where there is nothing to promote.
func (c *Cluster) conclude(ctx context.Context, id string, seen domain.Instance) error {
	roster, release, err := c.changing(ctx)
	if err != nil {
		return err
	}
	defer release()
	now, _ := roster.Find(id)
	switch {
	case !c.wanted(id), now != seen:
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
