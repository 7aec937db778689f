// Package domaintest has values for the tests of packages that carry, store or apply values of
// the domain: random commands, registries, and the contents of registries in a form that can be
// compared. It defines no rules of its own, and only tests import it.
package domaintest

import (
	"errors"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// T is the part that *testing.T and *rapid.T have in common.
type T interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// acceptedNode returns the node that a client registers with spec.
func acceptedNode(t T, spec domain.NodeSpec) domain.CacheNode {
	t.Helper()
	n, err := domain.NewCacheNode(spec)
	if err != nil {
		t.Fatalf("a node that the test needs is refused: %v", err)
	}
	return n
}

// Node returns the node that a client registers with nothing but an id and an address.
func Node(t T, id, address string) domain.CacheNode {
	t.Helper()
	return acceptedNode(t, domain.NodeSpec{ID: id, Address: address})
}

// RegistryAfter returns a registry that has applied these commands, some of which may be
// refused.
func RegistryAfter(commands ...domain.Command) *domain.Registry {
	r := domain.NewRegistry()
	for _, cmd := range commands {
		_, _ = r.Apply(cmd)
	}
	return r
}

// Contents is everything that a view shows, as values that can be compared.
type Contents struct {
	Revision domain.Revision
	Nodes    []domain.CacheNode
	History  []domain.Change
}

// ContentsOf returns the contents of v.
func ContentsOf(v domain.View) Contents {
	c := Contents{Revision: v.Revision(), History: append([]domain.Change{}, v.History()...)}
	for n := range v.Nodes() {
		c.Nodes = append(c.Nodes, *n)
	}
	return c
}

// Answer is the result of Apply, as values that can be compared.
type Answer struct {
	Changes []domain.Change
	Error   string
	Refused domain.Revision
	Current *domain.CacheNode
}

// AnswerOf returns the answer with what Apply returned.
func AnswerOf(changes []domain.Change, err error) Answer {
	a := Answer{Changes: changes}
	if err != nil {
		a.Error = err.Error()
	}
	if refusal, ok := errors.AsType[*domain.Refusal](err); ok {
		a.Refused, a.Current = refusal.Revision, refusal.Current
	}
	return a
}
