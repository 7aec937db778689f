package wal

import (
	"errors"
	"os"
	"slices"
)

// keeper is the background goroutine of an open store. It creates the next segment before
// it is needed, removes the oldest segments when they have no live entry, and records in the
// list how far the log reached when it was opened. Each of these waits several times for the
// file system's journal, which a write to a segment does not, so writers should not do them.
func (s *store) keeper() {
	defer close(s.stopped)
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
			if err := s.keep(); err != nil {
				// A writer that needs room gets the error itself; removals are tried again later.
				s.logger.Debug("files of the log could not be prepared, or removed, yet", "error", err)
			}
		}
	}
}

// wakeKeeper wakes the keeper if there is work for it. The caller holds mu, unless nobody
// else has the store yet.
func (s *store) wakeKeeper() {
	needed := len(s.spares) == 0 && s.tail.end > s.tail.size/2
	if !needed && s.dead() == 0 && s.listed.Reaches >= s.lastAtOpen {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// dead returns how many of the oldest segments have no live entry; the tail is not counted.
// The caller holds mu.
func (s *store) dead() int {
	count := 0
	for count < len(s.segments)-1 && s.segments[count].live == 0 {
		count++
	}
	return count
}

func (s *store) keep() error {
	s.mu.RLock()
	needed := len(s.spares) == 0 && s.tail.end > s.tail.size/2
	s.mu.RUnlock()
	var err error
	if needed {
		err = s.ensureSpare(segmentSize)
	}
	return errors.Join(err, s.removeDead(), s.raiseReachesAfterOpen())
}

// ensureSpare makes sure that the last spare segment has at least size bytes.
func (s *store) ensureSpare(size int64) error {
	s.filesMu.Lock()
	defer s.filesMu.Unlock()
	s.mu.RLock()
	enough := len(s.spares) > 0 && s.spares[len(s.spares)-1].size >= size
	s.mu.RUnlock()
	if enough {
		return nil
	}
	if len(s.unlisted) == 0 || s.unlisted[len(s.unlisted)-1].size < size {
		made, err := createSegment(s.path, s.listed.Last+uint64(len(s.unlisted))+1, size)
		if err != nil {
			return err
		}
		s.unlisted = append(s.unlisted, made)
	}
	// A failed replacement may still have put the list in place, so the files that it names
	// stay.
	l := s.listed
	l.Last += uint64(len(s.unlisted))
	l.First = max(l.First, 1)
	l, err := s.replaceList(l)
	if err != nil {
		return noRoom(err, s.path, size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = l
	s.spares = append(s.spares, s.unlisted...)
	s.unlisted = nil
	return nil
}

// replaceList replaces the list on disk with l, whose Reaches becomes the last durable
// batch, and returns it. The caller holds filesMu.
func (s *store) replaceList(l list) (list, error) {
	s.mu.RLock()
	l.Reaches = s.lastDurable
	s.mu.RUnlock()
	return l, l.write(s.path)
}

// raiseReachesAfterOpen makes sure that the list's Reaches covers the last batch that was
// found when the store was opened.
func (s *store) raiseReachesAfterOpen() error {
	s.mu.RLock()
	known := s.listed.Reaches >= s.lastAtOpen
	s.mu.RUnlock()
	if known {
		return nil
	}
	return s.raiseReaches()
}

// raiseReaches makes sure that the list's Reaches covers the last durable batch.
func (s *store) raiseReaches() error {
	s.filesMu.Lock()
	defer s.filesMu.Unlock()
	s.mu.RLock()
	l, known := s.listed, s.listed.Reaches >= s.lastDurable
	s.mu.RUnlock()
	if known {
		return nil
	}
	l, err := s.replaceList(l)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = l
	return nil
}

// removeDead removes the oldest segments that have no live entry: from the list first.
func (s *store) removeDead() error {
	s.filesMu.Lock()
	defer s.filesMu.Unlock()
	s.mu.RLock()
	count := s.dead()
	l := s.listed
	l.First = s.segments[count].id
	s.mu.RUnlock()
	if count == 0 {
		return nil
	}
	l, err := s.replaceList(l)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.listed = l
	gone := s.segments[:count:count]
	s.segments = slices.Clone(s.segments[count:])
	s.mu.Unlock()
	var failed []error
	for _, segment := range gone {
		// The next start removes a file that stays, because the list does not name it.
		failed = append(failed, segment.close(), os.Remove(segment.path))
	}
	return errors.Join(failed...)
}
