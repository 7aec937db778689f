package consensus

import "github.com/nodesmetadata/nodesmetadata/ports"

// joinIntentName is a file whose being there counts: see ports.JoinIntent.
const joinIntentName = "joining.json"

// joinIntent is ports.JoinIntent in the directory, once that is claimed.
type joinIntent struct{ *Node }

// JoinIntent gives what this instance remembers of its wish to be a member.
func (n *Node) JoinIntent() ports.JoinIntent { return joinIntent{n} }

func (j joinIntent) Pending() (bool, error) {
	_, found, err := j.directory.Kept(joinIntentName)
	return found, err
}

func (j joinIntent) Begin() error {
	return j.directory.Keep(joinIntentName, []byte("{\"format\":1}\n"))
}

func (j joinIntent) End() error { return j.directory.Drop(joinIntentName) }
