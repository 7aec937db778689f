package domain

import (
	"reflect"
	"strings"
	"testing"
	"unsafe"
)

// Unchanged parts of a node are in memory once, although each command brings its own copy.
func TestUnchangedNodesAreSharedBetweenViews(t *testing.T) {
	spelt := func(change func(*CacheNode)) Command {
		n := CacheNode{
			ID: strings.Clone("n1"), Address: strings.Clone("h:1"), Pool: strings.Clone("p"), Zone: strings.Clone("z"),
			Labels: map[string]string{"rack": "r7"}, Weight: 1,
		}
		change(&n)
		return Register{Node: n}
	}
	tests := map[string]struct {
		change func(*CacheNode)
		own    string // the part that the change replaces
	}{
		"the weight":        {func(n *CacheNode) { n.Weight = 2 }, ""},
		"the address":       {func(n *CacheNode) { n.Address = "h:2" }, "Address"},
		"the pool":          {func(n *CacheNode) { n.Pool = "q" }, "Pool"},
		"the zone":          {func(n *CacheNode) { n.Zone = "y" }, "Zone"},
		"a label":           {func(n *CacheNode) { n.Labels["rack"] = "r8" }, "Labels"},
		"a label that goes": {func(n *CacheNode) { n.Labels = nil }, "Labels"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := NewRegistry()
			var nodes []*CacheNode
			for _, cmd := range []Command{spelt(func(*CacheNode) {}), spelt(test.change)} {
				changes, err := r.Apply(cmd)
				if err != nil {
					t.Fatal(err)
				}
				nodes = append(nodes, changes[0].Node)
			}
			before, after := memory(nodes[0]), memory(nodes[1])
			for field, at := range before {
				if shared := after[field] == at; shared != (field != test.own) {
					t.Errorf("%s is shared = %v, want %v", field, shared, field != test.own)
				}
			}
			want := spelt(test.change).(Register).Node
			if !nodes[1].sameAs(&want) {
				t.Errorf("node = %+v, want %+v", nodes[1], want)
			}
		})
	}
}

// memory returns the addresses of the parts of n.
func memory(n *CacheNode) map[string]uintptr {
	at := map[string]uintptr{"Labels": reflect.ValueOf(n.Labels).Pointer()}
	for field, text := range map[string]string{"ID": n.ID, "Address": n.Address, "Pool": n.Pool, "Zone": n.Zone} {
		at[field] = uintptr(unsafe.Pointer(unsafe.StringData(text)))
	}
	return at
}
