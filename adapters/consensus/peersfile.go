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

// The last membership that this instance knew of is kept beside the log, for when
// that can't be read: it says who else has what it held.
const (
	peersName   = "peers.json"
	peersFormat = 1
)

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

func keepPeers(d *logstore.Directory, roster domain.Roster) error {
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

// keptPeers gives an empty roster where none was ever kept.
func keptPeers(d *logstore.Directory) (domain.Roster, error) {
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

// How long after one that failed the next try comes: twice as long after each.
const (
	firstKeepPause = 100 * time.Millisecond
	maxKeepPause   = 10 * time.Second
)

// rememberPeers keeps the membership, whenever it is another one, where that has this
// instance. The disk may fail, or take its time, and nobody waits for it.
func (n *Node) rememberPeers() {
	var kept domain.Roster
	keep := func() error {
		roster := n.state.read().Roster
		if _, isMember := roster.Find(n.config.ID); !isMember || roster.Equal(kept) {
			return nil
		}
		err := keepPeers(n.directory, roster)
		if err == nil {
			kept = roster
		}
		return err
	}
	pause := firstKeepPause
	for {
		var again <-chan time.Time
		switch err := keep(); {
		case err == nil:
			pause = firstKeepPause
		case pause == firstKeepPause:
			// Once, not at every try.
			n.config.Logger.Warn("the list of instances could not be kept beside the log yet", "error", err)
			fallthrough
		default:
			again = time.After(pause)
			pause = min(2*pause, maxKeepPause)
		}
		select {
		case <-n.regrouped:
		case <-again:
		case <-n.running.Done():
			_ = keep() // there may be a change that came with the end
			return
		}
	}
}

// regroup is told that the membership is another one.
func (n *Node) regroup() {
	select {
	case n.regrouped <- struct{}{}:
	default:
	}
}

// keptClusterSize returns how many members peers.json lists; 0 if there is no such file,
// or if this instance is not among them.
func (n *Node) keptClusterSize() (int, error) {
	roster, err := keptPeers(n.directory)
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
