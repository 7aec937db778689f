package badger_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/nodesmetadata/nodesmetadata/adapters/logstore"
	"github.com/nodesmetadata/nodesmetadata/adapters/logstore/badger"
)

// Without room, badger's writes would end the process. What frees room, or makes an instance
// stand back, is still written when entries are not.
func TestNothingIsWrittenWithoutRoomForIt(t *testing.T) {
	if _, alone := os.LookupEnv(aloneEnv); !alone {
		inNamespace(t)
		return
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("skipped: the test needs to mount a file system: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	leave(t, dir, badger.OpenRoom-1<<20)
	store, err := badger.Open(dir, nil)
	if err == nil {
		_ = store.Close()
	}
	wantNoRoom(t, "Open", err, badger.OpenRoom)
	leave(t, dir, badger.AppendRoom+4<<20)
	store = open(t, dir)
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	writes := map[string]func() error{
		"StoreLog":    func() error { return store.StoreLog(&raft.Log{Index: 1, Term: 1}) },
		"DeleteRange": func() error { return store.DeleteRange(1, 1) },
		"Set":         func() error { return store.Set([]byte("key"), []byte("value")) },
	}
	if err := store.(logstore.Roomy).Room(); err != nil {
		t.Errorf("Room = %v, want no error", err)
	}
	leave(t, dir, badger.AppendRoom-1<<20)
	wantNoRoom(t, "Room", store.(logstore.Roomy).Room(), badger.AppendRoom)
	leave(t, dir, badger.WriteRoom+1<<20)
	for _, name := range []string{"Set", "StoreLog", "DeleteRange", "StoreLog"} {
		if err := writes[name](); err != nil {
			t.Errorf("%s without room for many entries = %v, want success", name, err)
		}
	}
	leave(t, dir, badger.WriteRoom-1<<20)
	for name, write := range writes {
		wantNoRoom(t, name, write(), badger.WriteRoom)
	}
	if err := store.GetLog(1, new(raft.Log)); err != nil {
		t.Errorf("GetLog without room = %v, want success", err)
	}
	leave(t, dir, badger.AppendRoom)
	if err := writes["DeleteRange"](); err != nil {
		t.Errorf("DeleteRange with room again = %v, want success", err)
	}
}

// inNamespace runs the test in a process of its own, which may mount file systems.
func inNamespace(t *testing.T) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), aloneEnv+"=1")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := child.CombinedOutput()
	if child.Process == nil {
		t.Skipf("skipped: the test needs a namespace of its own: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// leave has a file take all of the disk of dir but free bytes.
func leave(t *testing.T, dir string, free int64) {
	t.Helper()
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	var disk syscall.Statfs_t
	err = errors.Join(syscall.Fstatfs(int(filler.Fd()), &disk), syscall.Fallocate(int(filler.Fd()), 0, 0, int64(disk.Bavail)*disk.Bsize-free), filler.Close())
	if err != nil {
		t.Fatal(err)
	}
}

func wantNoRoom(t *testing.T, what string, err error, needed uint64) {
	t.Helper()
	if refused, is := errors.AsType[*logstore.NoRoomError](err); !is || refused.Needed != needed {
		t.Errorf("%s = %v, want a NoRoomError for %d bytes", what, err, needed)
	}
}
