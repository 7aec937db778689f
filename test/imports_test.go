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

// mayImport is the order of the layers: which packages of this module a package may
// import. The first entry that matches counts, and every package needs one. A
// trailing * stands for everything below.
var mayImport = []struct {
	from string
	of   []string
}{
	{"domain", nil},
	{"domain/domaintest", []string{"domain"}},
	{"ports", []string{"domain"}},
	{"ports/portstest", []string{"domain", "ports"}},
	{"app", []string{"domain", "ports"}},
	{"adapters/demux", nil},
	{"adapters/preface", nil},
	{"adapters/logstore", nil},
	{"adapters/logstore/logstoretest", []string{"adapters/logstore"}},
	{"adapters/logstore/*", []string{"adapters/logstore"}},
	{"adapters/peerapi", []string{"domain", "ports", "adapters/demux", "adapters/preface"}},
	{"adapters/consensus/codec", []string{"domain"}},
	{"adapters/consensus/disk", []string{"adapters/logstore"}},
	{"adapters/consensus/frames", nil},
	{"adapters/consensus/snapshots", []string{"adapters/logstore"}},
	{"adapters/consensus/stream", []string{"adapters/preface"}},
	{"adapters/consensus", []string{"domain", "ports", "adapters/demux", "adapters/preface", "adapters/logstore", "adapters/consensus/codec", "adapters/consensus/disk", "adapters/consensus/frames", "adapters/consensus/snapshots", "adapters/consensus/stream"}},
	{"adapters/httpapi/conns", nil},
	{"adapters/httpapi/frames", nil},
	{"adapters/httpapi", []string{"domain", "ports", "adapters/httpapi/conns", "adapters/httpapi/frames"}},
	{"cmd/nodesmetadata/config", []string{"domain", "adapters/consensus"}},
	{"cmd/nodesmetadata/offline", []string{"domain", "adapters/consensus", "adapters/logstore", "cmd/nodesmetadata/config"}},
	{"cmd/nodesmetadata/daemon", []string{"*"}},
	{"cmd/nodesmetadata", []string{"cmd/nodesmetadata/daemon"}},
	{"test/*", []string{"*"}},
	{"test", []string{"*"}},
}

// homes are the packages that alone may import a third-party module.
var homes = []struct {
	of string
	in []string
}{
	{"github.com/go-chi/chi", []string{"adapters/httpapi", "adapters/peerapi"}},
	{"github.com/hashicorp/raft", []string{"adapters/consensus", "adapters/consensus/disk", "adapters/consensus/snapshots", "adapters/logstore", "adapters/logstore/*", "test", "test/*"}},
	{"go.uber.org/fx", []string{"cmd/nodesmetadata/daemon"}},
	{"go.uber.org/dig", nil},
	{"google.golang.org/protobuf/encoding/protowire", []string{"adapters/consensus/codec"}},
}

// standardOnly packages import nothing from outside this module but the standard
// library and, at most, what besides says.
var standardOnly = []string{
	"domain", "ports", "ports/portstest", "app", "adapters/demux", "adapters/preface",
	"adapters/consensus/codec", "adapters/consensus/frames", "adapters/consensus/stream",
	"adapters/httpapi/conns", "adapters/httpapi/frames",
}

var besides = map[string]string{"adapters/consensus/codec": "google.golang.org/protobuf/encoding/protowire"}

// Package domain decides and package codec translates, and neither ever waits, locks, logs or
// asks for the time.
var pure = []string{"domain", "adapters/consensus/codec"}

var notInPure = []string{"context", "time", "os", "sync", "log", "math/rand", "crypto/rand", "net/http", "encoding/json"}

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
			found = append(found, from+" is not in the list of layers")
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
			faults = append(faults, "it is not in a lower layer")
		}
		return faults
	}
	for _, home := range homes {
		if (path == home.of || strings.HasPrefix(path, home.of+"/") || strings.HasPrefix(path, home.of+"-")) && !matches(from, home.in) {
			faults = append(faults, "only other packages may import it")
		}
	}
	if !isStandard(path) && slices.Contains(standardOnly, from) && path != besides[from] {
		faults = append(faults, "the package may import only the standard library")
	}
	if slices.Contains(pure, from) && slices.ContainsFunc(notInPure, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }) {
		faults = append(faults, "the package may not use it")
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
		t.Fatalf("go list found %d packages, want at least 10", len(packages))
	}
	for _, violation := range violations(packages) {
		t.Error(violation)
	}
}

// list returns the packages of this module with what they import, tests aside.
func list(t *testing.T) []pkg {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports", module+"/...")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &stderr)
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
		"the domain reads no clock":                  {from: "domain", imports: "time"},
		"the domain uses no randomness":              {from: "domain", imports: "math/rand/v2"},
		"the domain imports no port":                 {from: "domain", imports: module + "/ports"},
		"the domain may sort":                        {from: "domain", imports: "slices", fine: true},
		"ports import no third party":                {from: "ports", imports: "github.com/hashicorp/go-hclog"},
		"use cases import no adapter":                {from: "app", imports: module + "/adapters/consensus"},
		"use cases import no third party":            {from: "app", imports: "golang.org/x/sync/errgroup"},
		"use cases import ports":                     {from: "app", imports: module + "/ports", fine: true},
		"adapters import no use case":                {from: "adapters/httpapi", imports: module + "/app"},
		"adapters do not import each other":          {from: "adapters/consensus", imports: module + "/adapters/peerapi"},
		"adapters do not import the daemon":          {from: "adapters/httpapi", imports: module + "/cmd/nodesmetadata/daemon"},
		"a backend imports no other":                 {from: "adapters/logstore/wal", imports: module + "/adapters/logstore/bolt"},
		"a backend imports the contract":             {from: "adapters/logstore/wal", imports: module + "/adapters/logstore", fine: true},
		"the log store does not import its backends": {from: "adapters/logstore", imports: module + "/adapters/logstore/bolt"},
		"the demux imports no third party":           {from: "adapters/demux", imports: "github.com/prometheus/client_golang/prometheus"},
		"connections know no API":                    {from: "adapters/httpapi/conns", imports: module + "/adapters/httpapi"},
		"connections know no port":                   {from: "adapters/httpapi/conns", imports: module + "/ports"},
		"frames know no port":                        {from: "adapters/httpapi/frames", imports: module + "/ports"},
		"frames know no connections but their own":   {from: "adapters/httpapi/frames", imports: module + "/adapters/httpapi/conns"},
		"connections are not routed":                 {from: "adapters/httpapi/conns", imports: "github.com/go-chi/chi/v5"},
		"chi stays in the HTTP adapters":             {from: "cmd/nodesmetadata/daemon", imports: "github.com/go-chi/chi/v5"},
		"raft stays in consensus and the stores":     {from: "adapters/httpapi", imports: "github.com/hashicorp/raft"},
		"raft's own stores count as raft":            {from: "cmd/nodesmetadata/daemon", imports: "github.com/hashicorp/raft-boltdb/v2"},
		"the verbs import no backend":                {from: "cmd/nodesmetadata/offline", imports: module + "/adapters/logstore/bolt"},
		"the verbs leave raft to consensus":          {from: "cmd/nodesmetadata/offline", imports: "github.com/hashicorp/raft"},
		"raft is at home in consensus":               {from: "adapters/consensus", imports: "github.com/hashicorp/raft", fine: true},
		"the codec knows no raft":                    {from: "adapters/consensus/codec", imports: "github.com/hashicorp/raft"},
		"the codec opens no file":                    {from: "adapters/consensus/codec", imports: "os"},
		"the codec reads no clock":                   {from: "adapters/consensus/codec", imports: "time"},
		"the codec does not import its user":         {from: "adapters/consensus/codec", imports: module + "/adapters/consensus"},
		"the codec knows the wire format":            {from: "adapters/consensus/codec", imports: "google.golang.org/protobuf/encoding/protowire", fine: true},
		"the codec imports no other third party":     {from: "adapters/consensus/codec", imports: "google.golang.org/protobuf/proto"},
		"the wire format stays in the codec":         {from: "adapters/consensus", imports: "google.golang.org/protobuf/encoding/protowire"},
		"only consensus imports the codec":           {from: "cmd/nodesmetadata/offline", imports: module + "/adapters/consensus/codec"},
		"raft's disk knows no cache node":            {from: "adapters/consensus/disk", imports: module + "/domain"},
		"raft's disk knows no raft cluster":          {from: "adapters/consensus/disk", imports: module + "/adapters/consensus"},
		"the snapshot stores look into no state":     {from: "adapters/consensus/snapshots", imports: module + "/adapters/consensus/codec"},
		"the snapshot stores know no raft cluster":   {from: "adapters/consensus/snapshots", imports: module + "/adapters/consensus"},
		"the stream does not know raft":              {from: "adapters/consensus/stream", imports: "github.com/hashicorp/raft"},
		"the check of frames does not know raft":     {from: "adapters/consensus/frames", imports: "github.com/hashicorp/raft"},
		"fx stays in the daemon":                     {from: "cmd/nodesmetadata", imports: "go.uber.org/fx"},
		"packages of fx stay in the daemon, too":     {from: "app", imports: "go.uber.org/fx/fxevent"},
		"the daemon imports every package":           {from: "cmd/nodesmetadata/daemon", imports: module + "/adapters/httpapi", fine: true},
		"a package without a layer is reported":      {from: "util", imports: "strings"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			found := violations([]pkg{{ImportPath: module + "/" + test.from, Imports: []string{test.imports}}})
			if test.fine != (len(found) == 0) {
				t.Errorf("violations = %q, want none: %v", found, test.fine)
			}
		})
	}
}
