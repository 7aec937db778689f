package domaintest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// seeds is the number of draws, enough to see everything that is wanted.
const seeds = 400

// mustReach fails the test for each wanted thing that no draw had.
func mustReach(t *testing.T, seen map[string]int, wanted ...string) {
	t.Helper()
	for _, what := range wanted {
		if seen[what] == 0 {
			t.Errorf("none of %d draws has %s", seeds, what)
		}
	}
}

// Tests are only as good as what their generators draw.
func TestTheDrawnCommandsAreOfEveryKindWithEveryField(t *testing.T) {
	seen := map[string]int{}
	var note func(domain.Command)
	condition := func(c domain.Condition) { seen[fmt.Sprintf("expectation %d", c.Expect)]++ }
	note = func(cmd domain.Command) {
		seen[fmt.Sprintf("%T", cmd)]++
		switch cmd := cmd.(type) {
		case domain.Batch:
			for _, one := range cmd.Commands {
				seen[fmt.Sprintf("%T in a batch", one)]++
				note(one)
			}
			if len(cmd.Commands) > 1 {
				seen["a batch of several"]++
			}
		case domain.Register:
			condition(cmd.If)
			n := cmd.Node
			for what, has := range map[string]bool{
				"a zone":                      n.Zone != "",
				"labels":                      len(n.Labels) > 1,
				"no labels":                   len(n.Labels) == 0,
				"a time to live":              n.TTLSeconds > 0,
				"no time to live":             n.TTLSeconds == 0,
				"down on expiry":              n.OnExpiry == domain.DownOnExpiry,
				"removal on expiry":           n.OnExpiry == domain.RemoveOnExpiry,
				"a state before expiry":       n.ExpiredFrom != "",
				"a slot":                      n.Slot > 0,
				"no weight":                   n.Weight == 0,
				"a weight over two bytes":     n.Weight > 1<<14,
				"the longest id":              len(n.ID) == domain.MaxIDBytes,
				"a revision over thirty bits": n.Revision > 1<<30,
			} {
				if has {
					seen[what]++
				}
			}
		case domain.Deregister:
			condition(cmd.If)
		case domain.Expire:
			if len(cmd.Nodes) > 1 {
				seen["an expiry of several"]++
			}
		}
	}
	for seed := range seeds {
		note(AnyCommand().Example(seed))
	}
	mustReach(t, seen,
		"domain.Register", "domain.Deregister", "domain.Batch", "domain.Expire", "domain.Revive",
		"domain.Register in a batch", "domain.Deregister in a batch", "a batch of several", "an expiry of several",
		"expectation 0", "expectation 1", "expectation 2", "expectation 3",
		"a zone", "labels", "no labels", "a time to live", "no time to live", "down on expiry", "removal on expiry",
		"a state before expiry", "a slot", "no weight", "a weight over two bytes", "the longest id", "a revision over thirty bits",
	)
}

func TestTheCrossingCommandsMeetWithEveryOutcome(t *testing.T) {
	seen := map[string]int{}
	for seed := range seeds {
		r := domain.NewRegistry()
		for _, cmd := range CrossingCommands().Example(seed) {
			changes, err := r.Apply(cmd)
			kind := fmt.Sprintf("%T", cmd)
			if err != nil {
				seen[kind+" refused"]++
				if errors.Is(err, domain.ErrAddressInUse) {
					seen[kind+" at an address in use"]++
				}
			}
			if batch, ok := cmd.(domain.Batch); ok && err == nil && len(batch.Commands) > 1 {
				seen["a batch of several"]++
			}
			for _, change := range changes {
				seen[fmt.Sprintf("%s: %s", kind, change.Effect)]++
				if change.Node.State == domain.Down && change.Reason == domain.ByExpiry {
					seen["down by expiry"]++
				}
			}
			if _, ok := cmd.(domain.Expire); ok && len(changes) == 0 {
				seen["an expiry of nobody"]++
			}
		}
	}
	mustReach(t, seen,
		"domain.Register: added", "domain.Register: updated", "domain.Register: unchanged",
		"domain.Register refused", "domain.Register at an address in use", "domain.Deregister: removed", "domain.Deregister refused",
		"a batch of several", "domain.Batch: added", "domain.Batch: updated", "domain.Batch: unchanged", "domain.Batch: removed",
		"domain.Batch refused", "domain.Batch at an address in use",
		"domain.Expire: removed", "domain.Expire: updated", "down by expiry", "an expiry of nobody",
		"domain.Revive: updated", "domain.Revive: unchanged", "domain.Revive refused",
	)
}
