package simulation

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// broken describes a defect built in on purpose, so that the checks have something to find.
type broken struct {
	disk  lie
	reads bool        // leaders answer reads without proving leadership
	hides bool        // clients are told that nothing happened when the outcome is unknown
	plan  func(*plan) // makes the plan bring the defect to light
}

var brokenThings = map[string]broken{
	"reads without proof":                   {reads: true, plan: deceptions},
	"unknown outcomes reported as not done": {hides: true},
	"a disk that loses its last entries":    {disk: losesEntries, plan: crashes},
	"a disk that loses its vote":            {disk: losesVotes, plan: elections},
	"a disk that swaps entries":             {disk: swapsEntries},
	believing:                               {plan: deceptions},
}

// believing is a separate build with a broken read: see consensus.Node.
const (
	believing    = "VerifyLeader and then a read"
	believingTag = "broken_read_verifyleader"
)

// deceptions makes a plan in which a leader answers that was deposed long ago.
func deceptions(p *plan) {
	p.instances = 3
	p.believes = true
	p.reads = 80
	p.think = p.think/4 + 1
	p.faults = []fault{isolate, slowLink, handOver}
}

// crashes makes a plan that exposes a disk that loses data.
func crashes(p *plan) {
	p.instances = 3
	p.faults = []fault{crashOne, crashAll, crashInWrite, isolate}
}

// elections makes a plan in which two leaders are elected in the same term if a
// voter forgets its vote.
func elections(p *plan) {
	p.instances = 3
	p.believes = false
	p.lasts *= 2
	p.calm = time.Second
	p.faults = []fault{duel}
}

// soon is the number of histories within which a defect has to be found.
const soon = 100

func TestChecksFindEveryDefect(t *testing.T) {
	for name := range brokenThings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := ""
			if name == believing {
				program = build(t, believingTag)
			}
			reports := work(t.Context(), t, program, assignment{Seeds: shards(*first, soon, 1)[0], Broken: name, Enough: true})
			found := failing(reports)
			if len(found) == 0 {
				t.Fatalf("the defect was not found in %d histories", len(reports))
			}
			t.Logf("the defect was found in history %d: %s", len(reports), found[0].Found[0])
		})
	}
}

// The plan that exposes reads without proof of leadership must find nothing in a
// correct build.
func TestDeceptionsFindNoDefectInACorrectBuild(t *testing.T) {
	for _, r := range failing(work(t.Context(), t, "", assignment{Seeds: shards(*first, 20, 1)[0], Broken: believing})) {
		tell(t, r)
	}
}

// build builds the test binary of this package with a build tag.
func build(t *testing.T, tag string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "simulation.test")
	if output, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags="+tag, "-o="+program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build with %s: %v\n%s", tag, err, output)
	}
	return program
}
