package logstore

import "fmt"

// Roomy is a Store that can tell whether its disk has room.
type Roomy interface {
	// Room returns nil, or a *NoRoomError, while there is room for one more append
	// of raft's usual size; it looks at the disk each time, and is cheap.
	Room() error
}

// NoRoomError is the refusal of a write because its disk is full, or nearly so:
// nothing was written.
type NoRoomError struct {
	Directory    string
	Free, Needed uint64 // bytes
}

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("the disk of %s has %d kB free, and %d kB are needed", e.Directory, e.Free>>10, e.Needed>>10)
}

// CheckRoom returns a *NoRoomError unless needed bytes are free on the disk of directory,
// counting the reused bytes that are free inside its files. If the operating system can't
// tell, there is room.
func CheckRoom(directory string, reused, needed uint64) error {
	free, known := available(directory)
	if !known || free+reused >= needed {
		return nil
	}
	return &NoRoomError{Directory: directory, Free: free + reused, Needed: needed}
}
