package httpapi_test

import (
	"math"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/adapters/httpapi"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// wireNode describes with struct tags the JSON that appendNode writes by hand.
type wireNode struct {
	ID              string            `json:"id"`
	Address         string            `json:"address"`
	Pool            string            `json:"pool"`
	Weight          int               `json:"weight"`
	Zone            string            `json:"zone,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	State           string            `json:"state"`
	TTLSeconds      int               `json:"ttlSeconds,omitzero"`
	OnExpiry        *string           `json:"onExpiry,omitzero"`
	Slot            int               `json:"slot"`
	CreatedRevision uint64            `json:"createdRevision"`
	Revision        uint64            `json:"revision"`
}

type wireChange struct {
	Revision uint64    `json:"revision"`
	Type     string    `json:"type"`
	Node     *wireNode `json:"node"`
	Previous *wireNode `json:"previous,omitzero"`
	Reason   string    `json:"reason"`
}

func wire(n *domain.CacheNode) *wireNode {
	if n == nil {
		return nil
	}
	w := &wireNode{
		ID: n.ID, Address: n.Address, Pool: n.Pool, Weight: n.Weight, Zone: n.Zone, Labels: n.Labels, State: string(n.State),
		Slot: n.Slot, CreatedRevision: uint64(n.CreatedRevision), Revision: uint64(n.Revision),
		TTLSeconds: n.TTLSeconds,
	}
	if n.TTLSeconds > 0 || n.OnExpiry != domain.RemoveOnExpiry {
		w.OnExpiry = (*string)(&n.OnExpiry)
	}
	return w
}

func reference(t *rapid.T, value any) string {
	encoded, err := json.Marshal(value, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

// anyText generates text with characters that JSON must escape, and with invalid UTF-8.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[a-z0-9._:-]{0,20}`),
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{"", `"`, `\`, "<&>", "\u2028\u2029", "\x00\x1f\x7f", "\xff", "é", "🙂"}),
	)
}

func anyNode(t *rapid.T) *domain.CacheNode {
	text := anyText()
	return &domain.CacheNode{
		ID:      text.Draw(t, "id"),
		Address: text.Draw(t, "address"),
		Pool:    text.Draw(t, "pool"),
		Weight:  rapid.Int().Draw(t, "weight"),
		Zone:    text.Draw(t, "zone"),
		// The keys of labels are ids: two invalid keys that differ only in their invalid bytes
		// would become the same key in JSON.
		Labels:     rapid.MapOf(rapid.StringMatching(`[a-zA-Z0-9._:-]{1,9}`), text).Draw(t, "labels"),
		State:      domain.State(text.Draw(t, "state")),
		TTLSeconds: rapid.OneOf(rapid.Just(0), rapid.IntRange(0, math.MaxInt)).Draw(t, "time to live"),
		OnExpiry: rapid.OneOf(
			rapid.SampledFrom([]domain.OnExpiry{domain.RemoveOnExpiry, domain.DownOnExpiry}),
			rapid.Map(text, func(s string) domain.OnExpiry { return domain.OnExpiry(s) }),
		).Draw(t, "on expiry"),
		ExpiredFrom:     domain.State(text.Draw(t, "expired from")), // not part of the JSON
		Slot:            rapid.Int().Draw(t, "slot"),
		CreatedRevision: domain.Revision(rapid.Uint64().Draw(t, "created")),
		Revision:        domain.Revision(rapid.Uint64().Draw(t, "revision")),
	}
}

func TestANodeIsEncodedAsTheLibraryWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := anyNode(t)
		if got, want := string(httpapi.AppendNode(nil, node)), reference(t, wire(node)); got != want {
			t.Fatalf("node = %s\nwant   %s", got, want)
		}
	})
}

func TestAChangeIsEncodedAsTheLibraryWould(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		change := &domain.Change{
			Revision: domain.Revision(rapid.Uint64().Draw(t, "revision")),
			Effect:   domain.Effect(anyText().Draw(t, "effect")),
			Reason:   domain.Reason(anyText().Draw(t, "reason")),
			Node:     anyNode(t),
		}
		if rapid.Bool().Draw(t, "has previous") {
			change.Previous = anyNode(t)
		}
		want := reference(t, wireChange{
			uint64(change.Revision), string(change.Effect), wire(change.Node), wire(change.Previous), string(change.Reason),
		})
		if got := string(httpapi.AppendChange(nil, change)); got != want {
			t.Fatalf("change = %s\nwant     %s", got, want)
		}
	})
}
