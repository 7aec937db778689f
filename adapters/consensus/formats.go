package consensus

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Format counts what this build can read in the log and in snapshots: it grows
// with every kind of entry, and with every field of one or of a snapshot that
// earlier builds can't read. Instances tell each other theirs.
const Format = 3

// firstFormat is that of the builds that do not tell theirs, and of whoever has
// not been heard of. What it holds can always be proposed.
const firstFormat = 1

// introduced is the format in which a kind of entry came.
var introduced = map[entryKind]int{
	kindOpening:    1,
	kindRegister:   1,
	kindDeregister: 1,
	kindBatch:      1,
	kindExpire:     1,
	kindRevive:     1,
	kindPromotion:  1,

	kindRestorePart:   2,
	kindRestoreCommit: 2,
	kindRestoreAbort:  2,

	kindShared: 3,
}

// formatOf is what an instance has to read to apply entry. An instance that can't
// must stop: it would drift apart from the others.
func formatOf(entry any) int { return introduced[kindOf(entry)] }

// formats is what the instances of the cluster have told of themselves. Safe for
// concurrent use.
type formats struct {
	own int

	mu   sync.Mutex
	told map[string]int
}

func newFormats(own int) *formats { return &formats{own: own, told: map[string]int{}} }

// heard notes what id, of roster, told last.
func (f *formats) heard(roster domain.Roster, id string, format int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told[id] = format
	for known := range f.told {
		if _, isMember := roster.Find(known); !isMember {
			delete(f.told, known) // under its id another build may come
		}
	}
}

// of gives the format of each instance of roster.
func (f *formats) of(roster domain.Roster, self string) map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	reads := map[string]int{}
	for _, i := range roster.Instances() {
		reads[i.ID] = max(firstFormat, f.told[i.ID])
		if i.ID == self {
			reads[i.ID] = f.own
		}
	}
	return reads
}

// written gives the latest format that who is of roster reads, as far as that was told.
func (f *formats) written(roster domain.Roster) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	written := f.own
	for id, format := range f.told {
		if _, isMember := roster.Find(id); isMember {
			written = min(written, max(firstFormat, format))
		}
	}
	return written
}

// Heard implements ports.Formats.
func (n *Node) Heard(id string, format int) { n.formats.heard(n.state.read().Roster, id, format) }

// Shared implements ports.Formats.
func (n *Node) Shared() int {
	least := n.formats.own
	for _, format := range n.formats.of(n.state.read().Roster, n.config.ID) {
		least = min(least, format)
	}
	return least
}

// Written implements ports.Formats.
func (n *Node) Written() int {
	state := n.state.read()
	return max(state.written, n.formats.written(state.Roster))
}

// unreadable is the refusal of an entry that an instance of the cluster could not
// read; nil when all can.
func (n *Node) unreadable(entry any) error {
	needed := n.formatOf(entry)
	if needed <= firstFormat {
		return nil
	}
	roster := n.state.read().Roster
	reads := n.formats.of(roster, n.config.ID)
	var behind []string
	for _, i := range roster.Instances() {
		if reads[i.ID] < needed {
			behind = append(behind, fmt.Sprintf("%q (format %d)", i.ID, reads[i.ID]))
		}
	}
	if len(behind) == 0 {
		return nil
	}
	return fmt.Errorf("%w: it takes format %d, and not known to read that is %s", ports.ErrUpgrading, needed, strings.Join(behind, ", "))
}

func (n *Node) formatOf(entry any) int {
	if n.hooks.formatOf != nil {
		return n.hooks.formatOf(entry)
	}
	return formatOf(entry)
}
