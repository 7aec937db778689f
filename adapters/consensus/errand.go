package consensus

import "github.com/nodesmetadata/nodesmetadata/ports"

// errandName is a file whose being there counts: see ports.Errand.
const errandName = "joining.json"

// errand is ports.Errand in the directory, once that is claimed.
type errand struct{ *Node }

// Errand gives what this instance remembers of its wish to be a member.
func (n *Node) Errand() ports.Errand { return errand{n} }

func (e errand) Pending() (bool, error) {
	_, found, err := e.directory.Kept(errandName)
	return found, err
}

func (e errand) Begin() error { return e.directory.Keep(errandName, []byte("{\"format\":1}\n")) }

func (e errand) End() error { return e.directory.Drop(errandName) }
