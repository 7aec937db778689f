package domaintest

import (
	"fmt"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// UsualRegister returns a typical registration, that of node i.
func UsualRegister(b *testing.B, i, weight int) domain.Register {
	return domain.Register{Node: acceptedNode(b, domain.NodeSpec{
		ID:      fmt.Sprintf("cache-node-%05d", i),
		Address: fmt.Sprintf("10.0.%d.%d:11211", i>>8, i&255),
		Weight:  &weight,
		Zone:    "eu-1a",
		Labels:  map[string]string{"rack": "r7", "generation": "3"},
	})}
}

// FullRegistry returns a registry of 10 000 nodes with a full history, in which half of the
// nodes were changed twice.
func FullRegistry(b *testing.B) *domain.Registry {
	b.Helper()
	const nodes = 10_000
	r := domain.NewRegistry()
	apply := func(cmd domain.Command) {
		if _, err := r.Apply(cmd); err != nil {
			b.Fatal(err)
		}
	}
	for i := range nodes {
		apply(UsualRegister(b, i, 100))
	}
	for i := range domain.HistoryLength {
		apply(UsualRegister(b, i%(nodes/2), 101+i))
	}
	return r
}
