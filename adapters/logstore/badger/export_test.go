package badger

// OpenEvery is Open with another time between two rounds of housekeeping.
var OpenEvery = open

// What must be free on the disk.
const (
	OpenRoom   = openRoom
	WriteRoom  = writeRoom
	AppendRoom = appendRoom
)
