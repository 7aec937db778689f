package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The layout of a bbolt file, as far as this package reads it. Numbers are in the byte
// order of the machine, as bbolt writes them.
//
//	page:           id u64, kind u16, count u16, overflow u32, then the elements
//	branch element: position u32, key size u32, page u64
//	leaf element:   flags u32, position u32, key size u32, value size u32
//	bucket value:   root page u64, sequence u64, and a whole page if the root is 0
//
// A position is the offset of the key, which the value follows, from the beginning of the
// element.
const (
	pageHeaderSize = 16
	elementSize    = 16
	bucketSize     = 16
	branchPage     = 1
	leafPage       = 2
	bucketFlag     = 1
	indexSize      = 8 // of a key in the bucket of the log
)

// The buckets of raft-boltdb.
const (
	logBucket    = "logs"
	stableBucket = "conf"
)

// pages walks the trees of a file. In a sound file, every page in use is part of one tree,
// once, and the keys of a tree are in order.
type pages struct {
	file io.ReaderAt
	size int
	end  uint64          // the first page number that was never used
	seen map[uint64]bool // the pages read so far
}

// span is the range in which the keys of a page must lie; a nil bound is no bound.
type span struct {
	from  []byte // included
	below []byte // not included
}

// visit is called for every element of a leaf.
type visit func(key, value []byte, flags uint32) error

// checkRoot checks all pages in use. root is the page that lists the buckets.
func (p *pages) checkRoot(root uint64) error {
	return p.checkTree(root, span{}, func(key, value []byte, flags uint32) error {
		name := string(key)
		switch {
		case flags != bucketFlag || (name != logBucket && name != stableBucket):
			return fmt.Errorf("%w (%q is no bucket of a log store)", ErrDamaged, name)
		case len(value) < bucketSize:
			return fmt.Errorf("%w (bucket %q is cut off)", ErrDamaged, name)
		}
		each := func(key, _ []byte, flags uint32) error {
			if flags != 0 || (name == logBucket && len(key) != indexSize) {
				return fmt.Errorf("%w (%x is no key of bucket %q)", ErrDamaged, key, name)
			}
			return nil
		}
		if root := binary.NativeEndian.Uint64(value); root != 0 {
			return p.checkTree(root, span{}, each)
		}
		// The page of a small bucket is inside the value.
		return p.checkPage(value[bucketSize:], span{}, each, "inside of bucket "+name)
	})
}

func (p *pages) checkTree(id uint64, keys span, each visit) error {
	page, err := p.read(id)
	if err != nil {
		return err
	}
	return p.checkPage(page, keys, each, fmt.Sprintf("page %d", id))
}

// read returns a page, together with its overflow pages.
func (p *pages) read(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end {
		return nil, fmt.Errorf("%w (page %d is not one of 2 to %d)", ErrDamaged, id, p.end)
	}
	var header [pageHeaderSize]byte
	at := int64(id) * int64(p.size)
	if err := p.readAt(header[:], at, id); err != nil {
		return nil, err
	}
	if says := binary.NativeEndian.Uint64(header[:]); says != id {
		return nil, fmt.Errorf("%w (page %d says that it is %d)", ErrDamaged, id, says)
	}
	count := uint64(binary.NativeEndian.Uint32(header[12:])) + 1
	if count > p.end-id {
		return nil, fmt.Errorf("%w (page %d runs over %d pages)", ErrDamaged, id, count)
	}
	for page := id; page < id+count; page++ {
		if p.seen[page] {
			return nil, fmt.Errorf("%w (page %d is in two places)", ErrDamaged, page)
		}
		p.seen[page] = true
	}
	page := make([]byte, count*uint64(p.size))
	if err := p.readAt(page, at, id); err != nil {
		return nil, err
	}
	return page, nil
}

// readAt fills raw from the offset at. A file that is too short is ErrDamaged, unlike a
// file that can't be read now.
func (p *pages) readAt(raw []byte, at int64, id uint64) error {
	_, err := p.file.ReadAt(raw, at)
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w (page %d is cut off)", ErrDamaged, id)
	case err != nil:
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (p *pages) checkPage(page []byte, keys span, each visit, name string) error {
	if len(page) < pageHeaderSize {
		return fmt.Errorf("%w (%s is cut off)", ErrDamaged, name)
	}
	kind, count := binary.NativeEndian.Uint16(page[8:]), int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeaderSize+count*elementSize > len(page) {
		return fmt.Errorf("%w (%s has no room for %d elements)", ErrDamaged, name, count)
	}
	switch {
	case kind == branchPage && count > 0:
		return p.checkBranch(page, count, keys, each, name)
	case kind == leafPage:
		return p.checkLeaf(page, count, keys, each, name)
	}
	return fmt.Errorf("%w (%s is of kind %d and has %d elements)", ErrDamaged, name, kind, count)
}

func (p *pages) checkLeaf(page []byte, count int, keys span, each visit, name string) error {
	var last []byte
	for at := range count {
		element := page[pageHeaderSize+at*elementSize:]
		flags, position := binary.NativeEndian.Uint32(element), binary.NativeEndian.Uint32(element[4:])
		keySize, valueSize := binary.NativeEndian.Uint32(element[8:]), binary.NativeEndian.Uint32(element[12:])
		if uint64(position)+uint64(keySize)+uint64(valueSize) > uint64(len(element)) {
			return fmt.Errorf("%w (%s: element %d reaches beyond it)", ErrDamaged, name, at)
		}
		key, rest := element[position:][:keySize], element[position:][keySize:]
		if !keys.hold(last, key) {
			return fmt.Errorf("%w (%s: key %d is out of order)", ErrDamaged, name, at)
		}
		if err := each(key, rest[:valueSize], flags); err != nil {
			return err
		}
		last = key
	}
	return nil
}

func (p *pages) checkBranch(page []byte, count int, keys span, each visit, name string) error {
	branches := make([]uint64, count)
	bounds := make([][]byte, count+1)
	bounds[count] = keys.below
	var last []byte
	for at := range count {
		element := page[pageHeaderSize+at*elementSize:]
		position, keySize := binary.NativeEndian.Uint32(element), binary.NativeEndian.Uint32(element[4:])
		if uint64(position)+uint64(keySize) > uint64(len(element)) {
			return fmt.Errorf("%w (%s: element %d reaches beyond it)", ErrDamaged, name, at)
		}
		key := element[position:][:keySize]
		if !keys.hold(last, key) {
			return fmt.Errorf("%w (%s: key %d is out of order)", ErrDamaged, name, at)
		}
		branches[at], bounds[at] = binary.NativeEndian.Uint64(element[8:]), key
		last = key
	}
	for at, branch := range branches {
		if err := p.checkTree(branch, span{from: bounds[at], below: bounds[at+1]}, each); err != nil {
			return err
		}
	}
	return nil
}

// hold reports whether key may follow last in the span; last is nil for the first key.
func (s span) hold(last, key []byte) bool {
	switch {
	case len(key) == 0:
		return false // bbolt stores no empty key, so nil is free to mean none
	case last != nil && bytes.Compare(last, key) >= 0:
		return false
	case s.from != nil && bytes.Compare(s.from, key) > 0:
		return false
	}
	return s.below == nil || bytes.Compare(key, s.below) < 0
}
