package domain

import "maps"

// holdings are the addresses, slots and bytes that the nodes of a registry occupy.
type holdings struct {
	owners map[string]string // canonical address → id of the node that has it
	pools  map[string]*slots // name of a pool → its slots; only pools with nodes
	bytes  int               // sum of the sizes of the nodes
}

func newHoldings() holdings {
	return holdings{owners: map[string]string{}, pools: map[string]*slots{}}
}

func (h *holdings) ownerOf(address string) (id string, taken bool) {
	id, taken = h.owners[canonicalAddress(address)]
	return id, taken
}

// hold records the address and the bytes of n; claim records its slot.
func (h *holdings) hold(n *CacheNode) {
	h.owners[canonicalAddress(n.Address)] = n.ID
	h.bytes += n.size()
}

// letGo undoes hold.
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

// claim takes the slot of n; false if the slot is taken or out of range.
func (h *holdings) claim(n *CacheNode) bool { return h.pool(n.Pool).claim(n.Slot) }

// release undoes claim.
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
