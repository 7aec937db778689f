package codec

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/domain/domaintest"
)

// stagedNodes are nodes with everything that a node can have in a backup.
func stagedNodes(t domaintest.T) []*domain.CacheNode {
	plain, expired := domaintest.Node(t, "a", "h:1"), leasedNode()
	return []*domain.CacheNode{&plain, &expired}
}

// replacedRegistry returns a registry that had a history before a backup replaced its
// content.
func replacedRegistry(t domaintest.T) *domain.Registry {
	r := domaintest.RegistryAfter(goldenCommands(t)...)
	with := domain.NewReplacement()
	for _, n := range stagedNodes(t) {
		if err := with.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Replace(with, nil); err != nil {
		t.Fatal(err)
	}
	return r
}

func anyRestoreStep() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		id := rapid.StringN(1, 20, -1).Draw(t, "id")
		number := rapid.IntRange(0, math.MaxInt32).Draw(t, "number")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			part := RestorePart{ID: id, Number: number}
			for range rapid.IntRange(0, 3).Draw(t, "nodes") {
				part.Nodes = append(part.Nodes, new(domaintest.AnyNode().Draw(t, "node")))
			}
			return part
		case 1:
			commit := RestoreCommit{ID: id, Parts: number}
			if rapid.Bool().Draw(t, "conditional") {
				commit.Expected = new(domain.Revision(rapid.Uint64().Draw(t, "expected")))
			}
			return commit
		}
		return RestoreAbort{ID: id}
	})
}

func TestAnyStepOfARestoreComesBackFromItsEntry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entry := anyRestoreStep().Draw(t, "step")
		data := EncodeEntry(entry)
		got, err := DecodeEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		clear(data)
		mustEqual(t, "the step", got, entry)
	})
}

func TestTheSizeOfANodeIsWhatItAddsToAPart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := domaintest.AnyNode().Draw(t, "node")
		part := RestorePart{ID: "r"}
		empty := len(EncodeEntry(part))
		part.Nodes = append(part.Nodes, &n)
		if got, want := NodeSize(&n), len(EncodeEntry(part))-empty; got != want {
			t.Errorf("NodeSize = %d, want %d", got, want)
		}
	})
}
