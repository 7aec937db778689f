package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/domain"
)

// The last membership that this instance knew is kept beside the log, for the case that the
// log can't be read: it says which other instances have what was in it.
const (
	peersName   = "peers.json"
	peersFormat = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type peersFile struct {
	Format    int          `json:"format"`
	Instances []peersEntry `json:"instances"`
	Checksum  uint32       `json:"checksum"` // CRC-32C of the instances, as they are written
}

type peersEntry struct {
	ID          string          `json:"id"`
	RaftAddress string          `json:"raft_address"`
	Suffrage    domain.Suffrage `json:"suffrage"`
}

var errPeersFile = errors.New("the list of instances that was kept beside the log is damaged, or of a newer version")

func peersChecksum(entries []peersEntry) (uint32, error) {
	raw, err := json.Marshal(entries)
	return crc32.Checksum(raw, castagnoli), err
}

func writePeers(d *logstore.Directory, roster domain.Roster) error {
	file := peersFile{Format: peersFormat}
	for _, i := range roster.Instances() {
		file.Instances = append(file.Instances, peersEntry{i.ID, i.RaftAddress, i.Suffrage})
	}
	var err error
	if file.Checksum, err = peersChecksum(file.Instances); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return d.Keep(peersName, append(raw, '\n'))
}

// readPeers returns an empty roster if none was written.
func readPeers(d *logstore.Directory) (domain.Roster, error) {
	raw, found, err := d.Kept(peersName)
	if err != nil || !found {
		return domain.Roster{}, err
	}
	var file peersFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return domain.Roster{}, fmt.Errorf("%w: %v", errPeersFile, err)
	}
	sum, err := peersChecksum(file.Instances)
	if err != nil || file.Format != peersFormat || sum != file.Checksum {
		return domain.Roster{}, errPeersFile
	}
	var instances []domain.Instance
	for _, e := range file.Instances {
		instances = append(instances, domain.Instance{ID: e.ID, RaftAddress: e.RaftAddress, Suffrage: e.Suffrage})
	}
	return domain.NewRoster(instances...), nil
}

// The pause between two attempts to write peers.json, which doubles after each failure.
const (
	minWritePause = 100 * time.Millisecond
	maxWritePause = 10 * time.Second
)

// rememberPeers writes peers.json whenever the membership has changed, if this instance is a
// member. It retries after an error, and nobody waits for it.
func (n *Node) rememberPeers() {
	var kept domain.Roster
	keep := func() error {
		roster := n.state.read().Roster
		if _, isMember := roster.Find(n.config.ID); !isMember || roster.Equal(kept) {
			return nil
		}
		err := writePeers(n.directory, roster)
		if err == nil {
			kept = roster
		}
		return err
	}
	pause := minWritePause
	for {
		var again <-chan time.Time
		switch err := keep(); {
		case err == nil:
			pause = minWritePause
		case pause == minWritePause:
			// Only after the first of several failures.
			n.config.Logger.Warn("the list of instances could not be kept beside the log yet", "error", err)
			fallthrough
		default:
			again = time.After(pause)
			pause = min(2*pause, maxWritePause)
		}
		select {
		case <-n.regrouped:
		case <-again:
		case <-n.running.Done():
			_ = keep() // for a change just before the end
			return
		}
	}
}

// membershipChanged has rememberPeers look at the membership.
func (n *Node) membershipChanged() {
	select {
	case n.regrouped <- struct{}{}:
	default:
	}
}

// keptClusterSize returns how many members peers.json lists; 0 if there is no such file,
// or if this instance is not among them.
func (n *Node) keptClusterSize() (int, error) {
	roster, err := readPeers(n.directory)
	if err != nil {
		return 0, err
	}
	if _, isMember := roster.Find(n.config.ID); !isMember {
		return 0, nil
	}
	return len(roster.Instances()), nil
}

// wasAlone reports whether this instance was the only member of its cluster, so that no
// other instance can give back what it had.
func (n *Node) wasAlone() bool {
	size, _ := n.keptClusterSize()
	return size == 1
}

// hasPeers reports whether this instance was a member of a cluster with others.
func (n *Node) hasPeers() bool {
	size, _ := n.keptClusterSize()
	return size > 1
}

// mayHavePeers is hasPeers, but also true if peers.json can't be read.
func (n *Node) mayHavePeers() bool {
	size, err := n.keptClusterSize()
	return err != nil || size > 1
}
