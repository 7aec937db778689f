package daemon

import (
	"runtime/debug"
	"sync"
)

// version is set by the linker in a build from the Makefile.
var version string

// Version returns the version of this build: the one set by the Makefile, or else the
// version of the module that `go install` fetched, or else the commit.
var Version = sync.OnceValue(func() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return "unknown"
})
