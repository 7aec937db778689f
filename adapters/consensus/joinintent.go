package consensus

// joinIntentName is a file whose being there counts: see ports.JoinIntent.
const joinIntentName = "joining.json"

// JoinPending implements ports.JoinIntent. Call Claim first.
func (n *Node) JoinPending() (bool, error) {
	_, found, err := n.directory.Kept(joinIntentName)
	return found, err
}

// BeginJoin implements ports.JoinIntent.
func (n *Node) BeginJoin() error {
	return n.directory.Keep(joinIntentName, []byte("{\"format\":1}\n"))
}

// EndJoin implements ports.JoinIntent.
func (n *Node) EndJoin() error { return n.directory.Drop(joinIntentName) }
