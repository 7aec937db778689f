package httpapi_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
	"github.com/nodesmetadata/nodesmetadata/ports"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestTheWireStaysAsItIs holds what clients see, byte by byte, against files. A
// difference is a change of the interface.
func TestTheWireStaysAsItIs(t *testing.T) {
	s := start(t)
	const whole = `{"id":"node0","address":"10.0.0.5:11211","pool":"main","weight":50,"zone":"eu-1a","labels":{"rack":"r7","os":"<linux>"},"state":"draining"}`
	golden(t, "node_created", s.do(t, "PUT", "/nodes", whole))
	golden(t, "node_unchanged", s.do(t, "PUT", "/nodes/node0", whole))
	golden(t, "node_plain", s.do(t, "PUT", "/nodes/node1", `{"address":"[2001:db8::1]:11211"}`))
	golden(t, "node", s.do(t, "GET", "/nodes/node0", ""))
	golden(t, "list", s.do(t, "GET", "/nodes", ""))
	golden(t, "list_not_modified", s.do(t, "GET", "/nodes", "", `If-None-Match: "2"`))
	golden(t, "problem", s.do(t, "GET", "/nodes/nobody", ""))
	golden(t, "problem_with_node", s.do(t, "DELETE", "/nodes/node1", "", `If-Match: "1"`))
	golden(t, "problem_with_several_faults", s.do(t, "PUT", "/nodes/node2", `{"address":"x","weight":-1}`))
	golden(t, "instance", s.do(t, "PUT", "/raft/node", `{"id":"n2","address":"127.0.0.1:7002"}`))
	golden(t, "metadata", s.do(t, "GET", "/raft/metadata", ""))
	golden(t, "ready", s.do(t, "GET", "/readyz", ""))

	nodes, cluster := s.stream(t, "/nodes/sse"), s.stream(t, "/raft/metadata/sse")
	text := nodes.event(t).raw
	s.do(t, "PUT", "/nodes/node1", `{"address":"[2001:db8::1]:11211","state":"draining"}`)
	s.do(t, "DELETE", "/nodes/node1", "")
	s.do(t, "PUT", "/nodes/node3", `{"address":"node3.test:1"}`)
	for range 3 {
		text += nodes.event(t).raw
	}
	goldenText(t, "node_events", text)

	text = cluster.event(t).raw
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8080", Version: "v1"})
	text += cluster.event(t).raw
	s.peers.Answer("127.0.0.1:7002", ports.Identity{RaftID: "n2", ApplicationAddress: "n2.test:8081", Version: "v1"})
	text += cluster.event(t).raw
	s.peers.Silence("127.0.0.1:7002")
	text += cluster.event(t).raw
	if err := s.instance.Add(t.Context(), domain.Instance{ID: "n3", RaftAddress: "h3:1", Suffrage: domain.Nonvoter}); err != nil {
		t.Fatal(err)
	}
	text += cluster.event(t).raw
	if err := s.instance.Remove(t.Context(), "n3"); err != nil {
		t.Fatal(err)
	}
	text += cluster.event(t).raw
	s.lead() // in another term
	text += cluster.event(t).raw
	goldenText(t, "cluster_events", text)

	s.follow("n2.test:8080")
	golden(t, "redirect", s.do(t, "GET", "/nodes", ""))
	s.loseLeader()
	golden(t, "no_leader", s.do(t, "GET", "/nodes", ""))
	golden(t, "not_ready", s.do(t, "GET", "/readyz", ""))
}

func golden(t *testing.T, name string, got reply) {
	t.Helper()
	text := fmt.Sprintf("%d\n", got.status)
	var lines []string
	for header, values := range got.header {
		if header != "Date" {
			lines = append(lines, header+": "+strings.Join(values, ", ")+"\n")
		}
	}
	slices.Sort(lines)
	goldenText(t, name, text+strings.Join(lines, "")+"\n"+got.body+"\n")
}

func goldenText(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nand was\n%s", name, got, want)
	}
}
