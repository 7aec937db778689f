package wal

import (
	"cmp"
	"slices"
)

// places is the in-memory index: where each entry is stored, sorted by raft index. Lookup,
// append and removal from either end are cheap; raft does nothing else.
type places struct{ all []place }

// place is where the record of an entry is stored: size bytes of segment from offset at.
type place struct {
	index   uint64
	segment *segment
	at      uint32
	size    uint32
}

// find returns the position of index in all and true, or the position where it would be
// inserted and false.
func (p *places) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(p.all, index, func(in place, index uint64) int {
		return cmp.Compare(in.index, index)
	})
}

func (p *places) bounds() (first, last uint64) {
	if len(p.all) == 0 {
		return 0, 0
	}
	return p.all[0].index, p.all[len(p.all)-1].index
}

// put records the place of an entry, instead of an earlier one if there was one.
func (p *places) put(in place) {
	in.segment.live++
	if _, last := p.bounds(); in.index > last {
		p.all = append(p.all, in)
		return
	}
	at, found := p.find(in.index)
	if !found {
		p.all = slices.Insert(p.all, at, in)
		return
	}
	p.all[at].segment.live--
	p.all[at] = in
}

// remove forgets the entries from the index from to the index to, both included.
func (p *places) remove(from, to uint64) {
	low, _ := p.find(from)
	high, found := p.find(to)
	if found {
		high++
	}
	if low >= high {
		return
	}
	for _, gone := range p.all[low:high] {
		gone.segment.live--
	}
	switch {
	case high == len(p.all):
		p.all = p.all[:low]
	case low == 0:
		p.all = p.all[high:] // the memory before it is freed when append next reallocates
	default:
		p.all = slices.Delete(p.all, low, high)
	}
}
