package badger

// OpenEvery is Open with another time between two rounds of housekeeping.
var OpenEvery = open
