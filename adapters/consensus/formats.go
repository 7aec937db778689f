package consensus

import (
	"fmt"
	"strings"
	"sync"

	"github.com/nodesmetadata/nodesmetadata/adapters/consensus/codec"
	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

// Format is the version of what this build can read in the log and in snapshots: see
// codec.Format. Instances tell each other theirs.
const Format = codec.Format

// formats records the formats that the instances of the cluster can read, as they have
// reported them. Safe for concurrent use.
type formats struct {
	own int

	mu       sync.Mutex
	reported map[string]int
}

func newFormats(own int) *formats { return &formats{own: own, reported: map[string]int{}} }

// report records the format of the instance id, and forgets instances that are not in roster.
func (f *formats) report(roster domain.Roster, id string, format int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reported[id] = format
	for known := range f.reported {
		if _, isMember := roster.Find(known); !isMember {
			delete(f.reported, known) // its id may come back with another build
		}
	}
}

// byInstance returns the format of each instance of roster.
func (f *formats) byInstance(roster domain.Roster, self string) map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	reads := map[string]int{}
	for _, i := range roster.Instances() {
		reads[i.ID] = max(codec.FirstFormat, f.reported[i.ID])
		if i.ID == self {
			reads[i.ID] = f.own
		}
	}
	return reads
}

// written returns the highest format that all instances of roster read, of those that have
// reported theirs.
func (f *formats) written(roster domain.Roster) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	written := f.own
	for id, format := range f.reported {
		if _, isMember := roster.Find(id); isMember {
			written = min(written, max(codec.FirstFormat, format))
		}
	}
	return written
}

// Heard implements ports.Formats.
func (n *Node) Heard(id string, format int) { n.formats.report(n.state.read().Roster, id, format) }

// Shared implements ports.Formats.
func (n *Node) Shared() int {
	least := n.formats.own
	for _, format := range n.formats.byInstance(n.state.read().Roster, n.config.ID) {
		least = min(least, format)
	}
	return least
}

// Written implements ports.Formats.
func (n *Node) Written() int {
	state := n.state.read()
	return max(state.written, n.formats.written(state.Roster))
}

// checkAllCanRead returns ErrUpgrading if an instance of the cluster may be unable to read
// the entry.
func (n *Node) checkAllCanRead(entry any) error {
	needed := n.formatOf(entry)
	if needed <= codec.FirstFormat {
		return nil
	}
	roster := n.state.read().Roster
	reads := n.formats.byInstance(roster, n.config.ID)
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
	return codec.FormatOf(entry)
}
