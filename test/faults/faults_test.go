package faults

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/nodesmetadata/nodesmetadata/test/harness"
)

func TestFaults(t *testing.T) {
	t.Logf("-seed=%d", theSeed())
	table := &gaps{}
	defer table.print(t)
	for _, backend := range backends(t) {
		for _, kind := range kinds {
			t.Run(backend+"/"+kind.name, func(t *testing.T) {
				chosen := choose(t, kind.name)
				if len(chosen) == 0 {
					return
				}
				options := kind.options
				options.Backend, options.Network = backend, harness.NewNetwork(t, options.Size)
				f := newField(t, options, light, theSeed())
				f.table = table
				f.runNemeses(chosen, *duration*time.Duration(kind.share)/100)
			})
		}
	}
}

// kinds are the kinds of clusters, and the percentage of the time that each gets.
var kinds = []struct {
	name    string
	share   int
	options harness.Options
}{
	{three, 60, harness.Options{Size: 3}},
	{five, 25, harness.Options{Size: 5}},
	{smallDisks, 15, harness.Options{Size: 3, DiskSize: 256 << 20}},
}

const (
	three      = "three instances"
	five       = "five instances"
	smallDisks = "three instances with small disks"
)

// theSeed returns the seed of the flag, or one drawn at random if the flag is not set.
var theSeed = func() func() uint64 {
	drawn := rand.Uint64N(1_000_000) + 1
	return func() uint64 {
		if *seed != 0 {
			return *seed
		}
		return drawn
	}
}()

func backends(t *testing.T) []string {
	t.Helper()
	switch *backend {
	case "all":
		return []string{"bolt", "badger", "wal"}
	case "bolt", "badger", "wal":
		return []string{*backend}
	}
	t.Fatalf("-backend = %s, want bolt, badger, wal or all", *backend)
	return nil
}

// choose returns the nemeses for a kind of cluster that the flags select.
func choose(t *testing.T, kind string) []nemesis {
	t.Helper()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		t.Fatalf("-only: %v", err)
	}
	return slices.DeleteFunc(slices.Clone(nemeses), func(n nemesis) bool {
		return n.cluster != kind || !wanted.MatchString(n.name) || *duration == 0 && *only == "" && !n.smoke
	})
}

// runNemeses has each nemesis strike as often as the flags say, in an order that
// follows from the seed, and continues until at least the given time has passed.
func (f *field) runNemeses(chosen []nemesis, atLeast time.Duration) {
	f.t.Helper()
	began := time.Now()
	for n := 0; n < *rounds || time.Since(began) < atLeast; n++ {
		f.random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		for _, nemesis := range chosen {
			if n >= *rounds && time.Since(began) > atLeast {
				return
			}
			f.round(nemesis)
		}
	}
}
