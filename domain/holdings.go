package domain

import "maps"

// holdings are what nodes take beside the nodes themselves: addresses, slots and bytes.
type holdings struct {
	owners map[string]string // canonical address → id of its owner
	pools  map[string]*slots
	bytes  int
}

func newHoldings() holdings {
	return holdings{owners: map[string]string{}, pools: map[string]*slots{}}
}

func (h *holdings) ownerOf(address string) (id string, taken bool) {
	id, taken = h.owners[canonicalAddress(address)]
	return id, taken
}

// hold counts n in, but for its slot.
func (h *holdings) hold(n *CacheNode) {
	h.owners[canonicalAddress(n.Address)] = n.ID
	h.bytes += n.size()
}

// letGo takes back hold.
func (h *holdings) letGo(n *CacheNode) {
	delete(h.owners, canonicalAddress(n.Address))
	h.bytes -= n.size()
}

func (h *holdings) pool(name string) *slots {
	if h.pools[name] == nil {
		h.pools[name] = &slots{}
	}
	return h.pools[name]
}

// claim takes the slot of n; false when it is taken already.
func (h *holdings) claim(n *CacheNode) bool { return h.pool(n.Pool).claim(n.Slot) }

func (h *holdings) release(n *CacheNode) {
	pool := h.pools[n.Pool]
	pool.release(n.Slot)
	if pool.unused() {
		delete(h.pools, n.Pool)
	}
}

func (h *holdings) clone() holdings {
	pools := make(map[string]*slots, len(h.pools))
	for name, pool := range h.pools {
		pools[name] = pool.clone()
	}
	return holdings{owners: maps.Clone(h.owners), pools: pools, bytes: h.bytes}
}
