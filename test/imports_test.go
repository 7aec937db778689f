package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nodesmetadata/nodesmetadata"

// mayImport is the order of the floors: what of this module a package may import.
// One that is not named here has no place yet, and gets one before it gets code.
// A trailing * stands for everything below.
var mayImport = []struct {
	from string
	of   []string
}{
	{"domain", nil},
	{"ports", []string{"domain"}},
	{"ports/portstest", []string{"domain", "ports"}},
	{"app", []string{"domain", "ports"}},
	{"adapters/demux", nil},
	{"adapters/preface", nil},
	{"adapters/logstore", nil},
	{"adapters/logstore/logstoretest", []string{"adapters/logstore"}},
	{"adapters/logstore/*", []string{"adapters/logstore"}},
	{"adapters/peerapi", []string{"domain", "ports", "adapters/demux", "adapters/preface"}},
	{"adapters/consensus", []string{"domain", "ports", "adapters/demux", "adapters/preface", "adapters/logstore"}},
	{"adapters/httpapi", []string{"domain", "ports"}},
	{"cmd/nodesmetadata/config", []string{"domain", "adapters/consensus"}},
	{"cmd/nodesmetadata/offline", []string{"domain", "adapters/consensus", "adapters/logstore", "cmd/nodesmetadata/config"}},
	{"cmd/nodesmetadata/daemon", []string{"*"}},
	{"cmd/nodesmetadata", []string{"cmd/nodesmetadata/daemon"}},
	{"test/*", []string{"*"}},
	{"test", []string{"*"}},
}

// homes are the only places for what belongs to one adapter.
var homes = []struct {
	of string
	in []string
}{
	{"github.com/go-chi/chi", []string{"adapters/httpapi", "adapters/peerapi"}},
	{"github.com/hashicorp/raft", []string{"adapters/consensus", "adapters/logstore", "adapters/logstore/*", "test", "test/*"}},
	{"go.uber.org/fx", []string{"cmd/nodesmetadata/daemon"}},
	{"go.uber.org/dig", nil},
}

// standardOnly packages import nothing from outside this module but the standard
// library.
var standardOnly = []string{"domain", "ports", "ports/portstest", "app", "adapters/demux", "adapters/preface"}

// Package domain decides, and never waits, locks, logs or asks for the time.
var notInDomain = []string{"context", "time", "os", "sync", "log", "math/rand", "crypto/rand", "net/http", "encoding/json"}

type pkg struct {
	ImportPath string
	Imports    []string
}

// violations are all imports of packages that break a rule.
func violations(packages []pkg) []string {
	var found []string
	for _, p := range packages {
		from := within(p.ImportPath)
		allowed, known := allowedIn(from)
		if !known {
			found = append(found, from+" has no place among the floors")
		}
		for _, path := range p.Imports {
			for _, fault := range faultsOf(from, path, allowed) {
				found = append(found, fmt.Sprintf("%s imports %s: %s", from, path, fault))
			}
		}
	}
	return found
}

func faultsOf(from, path string, allowed []string) (faults []string) {
	if isOurs(path) {
		if !matches(within(path), allowed) {
			faults = append(faults, "it does not lie below")
		}
		return faults
	}
	for _, home := range homes {
		if (path == home.of || strings.HasPrefix(path, home.of+"/") || strings.HasPrefix(path, home.of+"-")) && !matches(from, home.in) {
			faults = append(faults, "it belongs to others")
		}
	}
	if !isStandard(path) && slices.Contains(standardOnly, from) {
		faults = append(faults, "the standard library is all it gets")
	}
	if from == "domain" && slices.ContainsFunc(notInDomain, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }) {
		faults = append(faults, "the domain has no use for it")
	}
	return faults
}

func allowedIn(from string) (allowed []string, known bool) {
	for _, rule := range mayImport {
		if matches(from, []string{rule.from}) {
			return rule.of, true
		}
	}
	return nil, false
}

func matches(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, open := strings.CutSuffix(pattern, "*")
		return path == pattern || open && strings.HasPrefix(path, prefix)
	})
}

func isOurs(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func within(path string) string { return strings.TrimPrefix(strings.TrimPrefix(path, module), "/") }

func isStandard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

func TestImports(t *testing.T) {
	packages := list(t)
	if len(packages) < 10 {
		t.Fatalf("go list knows only %d packages", len(packages))
	}
	for _, violation := range violations(packages) {
		t.Error(violation)
	}
}

// list gives the packages of this module with what they import, tests aside.
func list(t *testing.T) []pkg {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var packages []pkg
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestTheImportRulesCatchWhatTheyForbid(t *testing.T) {
	tests := map[string]struct {
		from, imports string
		fine          bool
	}{
		"the domain reads no clock":                      {from: "domain", imports: "time"},
		"the domain draws no lots":                       {from: "domain", imports: "math/rand/v2"},
		"the domain imports no port":                     {from: "domain", imports: module + "/ports"},
		"the domain may sort":                            {from: "domain", imports: "slices", fine: true},
		"ports import no third party":                    {from: "ports", imports: "github.com/hashicorp/go-hclog"},
		"use cases import no adapter":                    {from: "app", imports: module + "/adapters/consensus"},
		"use cases import no third party":                {from: "app", imports: "golang.org/x/sync/errgroup"},
		"use cases import ports":                         {from: "app", imports: module + "/ports", fine: true},
		"adapters import no use case":                    {from: "adapters/httpapi", imports: module + "/app"},
		"adapters on one floor do not know each other":   {from: "adapters/consensus", imports: module + "/adapters/peerapi"},
		"nobody but the daemon knows the daemon":         {from: "adapters/httpapi", imports: module + "/cmd/nodesmetadata/daemon"},
		"a backend imports no other":                     {from: "adapters/logstore/wal", imports: module + "/adapters/logstore/bolt"},
		"a backend imports the contract":                 {from: "adapters/logstore/wal", imports: module + "/adapters/logstore", fine: true},
		"the log store does not know its backends":       {from: "adapters/logstore", imports: module + "/adapters/logstore/bolt"},
		"the demux needs nothing but the library":        {from: "adapters/demux", imports: "github.com/prometheus/client_golang/prometheus"},
		"chi stays in the HTTP adapters":                 {from: "cmd/nodesmetadata/daemon", imports: "github.com/go-chi/chi/v5"},
		"raft stays in consensus and the stores":         {from: "adapters/httpapi", imports: "github.com/hashicorp/raft"},
		"raft's own stores count as raft":                {from: "cmd/nodesmetadata/daemon", imports: "github.com/hashicorp/raft-boltdb/v2"},
		"the verbs know no backend":                      {from: "cmd/nodesmetadata/offline", imports: module + "/adapters/logstore/bolt"},
		"the verbs leave raft to consensus":              {from: "cmd/nodesmetadata/offline", imports: "github.com/hashicorp/raft"},
		"raft is at home in consensus":                   {from: "adapters/consensus", imports: "github.com/hashicorp/raft", fine: true},
		"fx stays in the daemon":                         {from: "cmd/nodesmetadata", imports: "go.uber.org/fx"},
		"fx does not get out by a package of its own":    {from: "app", imports: "go.uber.org/fx/fxevent"},
		"the daemon knows everybody":                     {from: "cmd/nodesmetadata/daemon", imports: module + "/adapters/httpapi", fine: true},
		"a package that nobody placed is not overlooked": {from: "util", imports: "strings"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			found := violations([]pkg{{ImportPath: module + "/" + test.from, Imports: []string{test.imports}}})
			if test.fine != (len(found) == 0) {
				t.Errorf("found %q", found)
			}
		})
	}
}
