package demux

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A limiter does the same as its description, carried out on a plain list.
func TestTheLimiterAgreesWithAModel(t *testing.T) {
	networks := []netip.Prefix{
		netip.MustParsePrefix("192.0.2.1/32"),
		netip.MustParsePrefix("192.0.2.2/32"),
		netip.MustParsePrefix("2001:db8::/64"),
	}
	rapid.Check(t, func(t *rapid.T) {
		bound := rapid.IntRange(1, 6).Draw(t, "bound")
		c := newLimiter(bound)
		var in, out []*entry // in: oldest first
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				network := rapid.SampledFrom(networks).Draw(t, "network")
				var want *entry
				if len(in) == bound {
					want = oldestOfTheGreediest(in)
				}
				newcomer, victim := c.add(&net.TCPConn{}, network)
				if victim != want {
					t.Fatalf("evicted entry = %+v, want %+v", victim, want)
				}
				if victim != nil {
					if victim.why != Overload {
						t.Fatalf("reason of the eviction = %v, want %v", victim.why, Overload)
					}
					in = slices.DeleteFunc(in, func(m *entry) bool { return m == victim })
					out = append(out, victim)
				}
				in = append(in, newcomer)
			},
			"leave": func(t *rapid.T) {
				if len(in) == 0 {
					t.Skip("the limiter is empty")
				}
				at := rapid.IntRange(0, len(in)-1).Draw(t, "at")
				if !c.release(in[at]) {
					t.Fatal("an entry could not be released")
				}
				out = append(out, in[at])
				in = slices.Delete(in, at, at+1)
			},
			"go twice": func(t *rapid.T) {
				if len(out) == 0 {
					t.Skip("no entry has left the limiter")
				}
				gone := rapid.SampledFrom(out).Draw(t, "gone")
				why := gone.why
				c.evict(gone, Shutdown)
				if c.release(gone) || gone.why != why {
					t.Fatalf("release of an entry that had left for %v = true or changed the reason to %v", why, gone.why)
				}
			},
			"": func(t *rapid.T) {
				if c.size() != len(in) {
					t.Fatalf("size = %d, want %d", c.size(), len(in))
				}
				sources := make(map[netip.Prefix]int)
				for _, m := range in {
					sources[m.from.network]++
				}
				if len(c.sources) != len(sources) {
					t.Fatalf("sources = %d, want %d", len(c.sources), len(sources))
				}
				for network, from := range c.sources {
					if from.count != sources[network] {
						t.Fatalf("entries of %v = %d, want %d", network, from.count, sources[network])
					}
				}
			},
		})
		c.close(Shutdown)
		if newcomer, _ := c.add(&net.TCPConn{}, networks[0]); newcomer != nil || c.size() != 0 || len(c.sources) != 0 {
			t.Fatal("a closed limiter is not empty")
		}
	})
}

func oldestOfTheGreediest(in []*entry) *entry {
	holds := func(network netip.Prefix) (n int) {
		for _, m := range in {
			if m.from.network == network {
				n++
			}
		}
		return n
	}
	// The first of the largest ones, as MaxFunc promises.
	return slices.MaxFunc(in, func(a, b *entry) int { return holds(a.from.network) - holds(b.from.network) })
}

func TestASourceIsTheNetworkOfOneClient(t *testing.T) {
	tests := map[string]struct {
		remote net.Addr
		want   string
	}{
		"an IPv4 address":             {&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5}, "192.0.2.1/32"},
		"an IPv4 address over IPv6":   {&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1"), Port: 5}, "192.0.2.1/32"},
		"all of an IPv6 network":      {&net.TCPAddr{IP: net.ParseIP("2001:db8::1:2:3:4"), Port: 5}, "2001:db8::/64"},
		"the same, whatever its zone": {&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "fe80::/64"},
		"no address at all":           {&net.TCPAddr{}, "invalid Prefix"},
		"an address that is unknown":  {nil, "invalid Prefix"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := networkOf(test.remote).String(); got != test.want {
				t.Errorf("network = %v, want %v", got, test.want)
			}
		})
	}
}
