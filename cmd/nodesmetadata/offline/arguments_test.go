package offline_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMisuseNamesWhatIsWrongAndTouchesNothing(t *testing.T) {
	tests := map[string]struct {
		args []string
		says []string
	}{
		"half a verb alone":                   {[]string{"storage"}, []string{`"storage" is only a part of a command`}},
		"half a verb with a flag":             {[]string{"storage", "--raft_dir=DIR"}, []string{"only a part of a command"}},
		"an unknown verb":                     {[]string{"storage", "vacuum"}, []string{`unknown command: "storage vacuum"`}},
		"a flag before the verb":              {[]string{"--raft_dir=DIR", "storage", "check"}, []string{`unexpected argument: "storage"`, `unexpected argument: "check"`}},
		"check without a directory":           {[]string{"storage", "check"}, []string{"--raft_dir must be given", "see nodesmetadata storage check --help"}},
		"check with an unknown flag":          {[]string{"storage", "check", "--raft_dir=DIR", "--deep"}, []string{"unknown flag: --deep"}},
		"check with a flag of another verb":   {[]string{"storage", "check", "--raft_dir=DIR", "--from=bolt"}, []string{"unknown flag: --from"}},
		"check with a flag of an instance":    {[]string{"storage", "check", "--raft_dir=DIR", "--raft_id=n1"}, []string{"unknown flag: --raft_id"}},
		"check with a stray argument":         {[]string{"storage", "check", "--raft_dir=DIR", "x"}, []string{`unexpected argument: "x"`}},
		"check with a flag without its value": {[]string{"storage", "check", "--raft_dir"}, []string{"flag needs an argument: --raft_dir"}},
		"migrate without flags":               {[]string{"storage", "migrate"}, []string{"--from must be given", "--to must be given", "--raft_dir must be given", "see nodesmetadata storage migrate --help"}},
		"migrate from an unknown backend":     {[]string{"storage", "migrate", "--from=tape", "--to=bolt", "--raft_dir=DIR"}, []string{`--from: "tape" is none of bolt, badger, wal` + "\n"}},
		"migrate to an unknown backend":       {[]string{"storage", "migrate", "--from=bolt", "--to=tape", "--raft_dir=DIR"}, []string{`--to: "tape" is none of bolt, badger, wal` + "\n"}},
		"migrate from memory":                 {[]string{"storage", "migrate", "--from=memory", "--to=bolt", "--raft_dir=DIR"}, []string{`--from: "memory" keeps nothing on disk`}},
		"migrate to memory":                   {[]string{"storage", "migrate", "--from=bolt", "--to=memory", "--raft_dir=DIR"}, []string{`--to: "memory" keeps nothing on disk`}},
		"migrate to the same backend":         {[]string{"storage", "migrate", "--from=bolt", "--to=bolt", "--raft_dir=DIR"}, []string{`--from, --to: both are "bolt"`}},
		"recover without flags":               {[]string{"recover"}, []string{"--raft_dir must be given", "--instance must be given", "see nodesmetadata recover --help"}},
		"recover without an address":          {[]string{"recover", "--raft_dir=DIR", "--instance=n1"}, []string{`--instance: "n1" is not id=address`}},
		"recover without a port":              {[]string{"recover", "--raft_dir=DIR", "--instance=n1=10.0.0.1"}, []string{`--instance: "n1=10.0.0.1": address must be host:port`}},
		"recover with a wildcard address":     {[]string{"recover", "--raft_dir=DIR", "--instance=n1=0.0.0.0:8008"}, []string{"not every interface"}},
		"recover with an invalid id":          {[]string{"recover", "--raft_dir=DIR", "--instance=n/1=10.0.0.1:1"}, []string{`"n/1=10.0.0.1:1": id may only have`}},
		"recover with two instances":          {[]string{"recover", "--raft_dir=DIR", "--instance=n1=10.0.0.1:1,n2=10.0.0.2:1"}, []string{`--instance: "n1=10.0.0.1:1,n2=10.0.0.2:1": address must be host:port`}},
		"recover with a stray argument":       {[]string{"recover", "--raft_dir=DIR", "--instance=n1=10.0.0.1:1", "n2=10.0.0.2:1"}, []string{`unexpected argument: "n2=10.0.0.2:1"`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			args := make([]string, len(test.args))
			for i, arg := range test.args {
				args[i] = strings.ReplaceAll(arg, "DIR", dir)
			}
			mustFail(t, 2, test.says, args...)
			if _, err := os.Lstat(dir); !os.IsNotExist(err) {
				t.Errorf("the directory was created: %v", err)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	for _, test := range []struct {
		args []string
		says []string
	}{
		{[]string{"--help"}, []string{"nodesmetadata storage check ", "nodesmetadata storage migrate ", "nodesmetadata recover ", "--raft_id"}},
		{[]string{"storage", "--help"}, []string{"nodesmetadata storage check ", "nodesmetadata storage migrate "}},
		{[]string{"storage", "-h"}, []string{"nodesmetadata storage check ", "nodesmetadata storage migrate "}},
		{[]string{"storage", "check", "--deep", "--help"}, []string{"Usage:"}},
		{[]string{"storage", "check", "--help"}, []string{"nodesmetadata storage check --raft_dir directory\n", "exit status"}},
		{[]string{"storage", "migrate", "-h"}, []string{"nodesmetadata storage migrate --from backend --to backend --raft_dir directory\n"}},
		{[]string{"storage", "migrate", "--from=x", "--help"}, []string{"Usage:"}},
		{[]string{"recover", "--help"}, []string{"nodesmetadata recover --raft_dir directory --instance id=address\n", "must ever be started again"}},
	} {
		said := mustRun(t, test.args...)
		for _, words := range test.says {
			if !strings.Contains(said, words) {
				t.Errorf("help of %q does not say %q:\n%s", test.args, words, said)
			}
		}
		for line := range strings.Lines(said) {
			if len(line) > 101 {
				t.Errorf("%q: a line is too long: %s", test.args, line)
			}
		}
	}
}
