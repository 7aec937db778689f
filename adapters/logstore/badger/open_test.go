package badger

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/logstoretest"
)

// Without the mark a log that is lost after a power cut is not missed. With a mark that came
// back, a store that was closed in an orderly way is refused.
func TestTheMarkOfAnOpenStoreIsDurable(t *testing.T) {
	dir := t.TempDir()
	if err := markOpen(dir); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) error{"markOpen": markOpen, "unmarkOpen": unmarkOpen} {
		logstoretest.Unlisted(t, dir, func() {
			if err := change(dir); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s in a folder that can't be synced: %v, want fs.ErrPermission", name, err)
			}
		})
	}
}
