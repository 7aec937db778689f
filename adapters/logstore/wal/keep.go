package wal

import (
	"errors"
	"os"
	"slices"
)

// keeper makes the next segment before it is needed, removes the oldest ones when
// nothing lives in them, and sees to it that the list knows how far the log reached when it
// was opened. All of that waits for the file system's journal, several times, which a
// write to a segment does not, and so it is nobody's business who writes.
func (s *store) keeper() {
	defer close(s.stopped)
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
			if err := s.keep(); err != nil {
				// Who needs room gets the error; what is left to be removed is removed later.
				s.logger.Debug("files of the log could not be prepared, or removed, yet", "error", err)
			}
		}
	}
}

// wakeKeeper wakes up the keeper if there is something to do. The caller holds the lock of
// what is in memory.
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

// dead is how many segments can go. The caller holds the lock of what is in memory.
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

// ensureSpare sees to it that the last spare segment has a size.
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
	// The list may be there when it could not be written: so what it would name stays.
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

// replaceList puts a list in the place of the one that is there, with how far the log
// reaches by now, and gives it. The caller holds filesMu.
func (s *store) replaceList(l list) (list, error) {
	s.mu.RLock()
	l.Reaches = s.lastDurable
	s.mu.RUnlock()
	return l, l.write(s.path)
}

// raiseReachesAfterOpen has the list reach as far as the log did when it was opened.
func (s *store) raiseReachesAfterOpen() error {
	s.mu.RLock()
	known := s.listed.Reaches >= s.lastAtOpen
	s.mu.RUnlock()
	if known {
		return nil
	}
	return s.raiseReaches()
}

// raiseReaches has the list reach as far as the log, if it does not.
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

// removeDead removes the oldest segments, as far as nothing lives in them.
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
		// The next start removes what can't be: the list does not name it.
		failed = append(failed, segment.close(), os.Remove(segment.path))
	}
	return errors.Join(failed...)
}
