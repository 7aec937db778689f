package domain_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestNewCacheNode(t *testing.T) {
	labels := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("key%d", i)] = "value"
		}
		return m
	}
	ttl := func(seconds int) func(*domain.NodeSpec) {
		return func(spec *domain.NodeSpec) { spec.TTLSeconds = &seconds }
	}
	end := func(end domain.OnExpiry) func(*domain.NodeSpec) {
		return func(spec *domain.NodeSpec) { spec.OnExpiry = &end }
	}
	id := func(id string) func(*domain.NodeSpec) { return func(spec *domain.NodeSpec) { spec.ID = id } }
	zone := func(zone string) func(*domain.NodeSpec) { return func(spec *domain.NodeSpec) { spec.Zone = zone } }
	label := func(key, value string) func(*domain.NodeSpec) {
		return func(spec *domain.NodeSpec) { spec.Labels = map[string]string{key: value} }
	}

	tests := map[string]struct {
		change func(*domain.NodeSpec)
		field  string // of the fault; empty: the node is accepted
	}{
		"an id of one letter is enough":                            {change: id("a")},
		"an id may begin with a digit":                             {change: id("0")},
		"an id may have all the signs that are allowed":            {change: id("A-z.0_9:b")},
		"an id of 128 bytes is the longest":                        {change: id(strings.Repeat("a", 128))},
		"an id of 129 bytes is too long":                           {change: id(strings.Repeat("a", 129)), field: "id"},
		"an id must not be empty":                                  {change: id(""), field: "id"},
		"an id must not begin with a dot":                          {change: id(".a"), field: "id"},
		"an id must not begin with a dash":                         {change: id("-a"), field: "id"},
		"an id must not begin with an underscore":                  {change: id("_a"), field: "id"},
		"an id must not begin with a colon":                        {change: id(":a"), field: "id"},
		"an id must not have a slash":                              {change: id("a/b"), field: "id"},
		"an id must not have a blank":                              {change: id("a b"), field: "id"},
		"an id must not have a line end":                           {change: id("a\n"), field: "id"},
		"an id must not have a letter beyond ASCII":                {change: id("aé"), field: "id"},
		"an id must not have a zero byte":                          {change: id("a\x00"), field: "id"},
		"an id may have the first and the last of its letters":     {change: id("AZaz09")},
		"an id must not have what comes before the digits":         {change: id("a/"), field: "id"},
		"an id must not have what comes behind the digits":         {change: id("a;"), field: "id"},
		"an id must not have what comes before the capitals":       {change: id("a@"), field: "id"},
		"an id must not have what comes behind the capitals":       {change: id("a["), field: "id"},
		"an id must not have what comes before the small letters":  {change: id("a`"), field: "id"},
		"an id must not have what comes behind the small letters":  {change: id("a{"), field: "id"},
		"sse is a word of the API and no id":                       {change: id("sse"), field: "id"},
		"batch is a word of the API and no id":                     {change: id("batch"), field: "id"},
		"expire is a word of the API and an id all the same":       {change: id("expire")},
		"a word of the API in capitals is an id":                   {change: id("SSE")},
		"an address must be given":                                 {change: func(s *domain.NodeSpec) { s.Address = "" }, field: "address"},
		"an address must have a port":                              {change: func(s *domain.NodeSpec) { s.Address = "10.0.0.1" }, field: "address"},
		"a pool is named as ids are":                               {change: inPool("pool-1.a:b_c")},
		"a pool may have a name that is no node's id":              {change: inPool("sse")},
		"a pool of 128 bytes is the longest":                       {change: inPool(strings.Repeat("p", 128))},
		"a pool of 129 bytes is too long":                          {change: inPool(strings.Repeat("p", 129)), field: "pool"},
		"a pool that is given must not be empty":                   {change: inPool(""), field: "pool"},
		"a pool must not begin with a dash":                        {change: inPool("-p"), field: "pool"},
		"a weight of 0 is kept":                                    {change: weighing(0)},
		"a weight of a million is the greatest":                    {change: weighing(1_000_000)},
		"a weight over a million is refused":                       {change: weighing(1_000_001), field: "weight"},
		"a weight under 0 is refused":                              {change: weighing(-1), field: "weight"},
		"a zone may be empty":                                      {change: zone("")},
		"a zone may be any text":                                   {change: zone(`eu "west" \ 東京`)},
		"a zone of 128 bytes is the longest":                       {change: zone(strings.Repeat("z", 128))},
		"a zone of 129 bytes is too long":                          {change: zone(strings.Repeat("z", 129)), field: "zone"},
		"a zone is counted in bytes and not in letters":            {change: zone(strings.Repeat("é", 65)), field: "zone"},
		"a zone must be valid UTF-8":                               {change: zone("\xff"), field: "zone"},
		"a zone must not have a control character":                 {change: zone("a\tb"), field: "zone"},
		"a zone must not have a control character beyond ASCII":    {change: zone("a\u0085b"), field: "zone"},
		"a zone must not have DEL":                                 {change: zone("a\x7f"), field: "zone"},
		"32 labels are the most":                                   {change: func(s *domain.NodeSpec) { s.Labels = labels(32) }},
		"33 labels are too many":                                   {change: func(s *domain.NodeSpec) { s.Labels = labels(33) }, field: "labels"},
		"a label's key is named as ids are":                        {change: label("a.b:c_d-e", "")},
		"a label's key of 128 bytes is the longest":                {change: label(strings.Repeat("k", 128), "")},
		"a label's key of 129 bytes is too long":                   {change: label(strings.Repeat("k", 129), ""), field: `the key of labels["` + strings.Repeat("k", 129) + `"]`},
		"a label's key must not be empty":                          {change: label("", "value"), field: `the key of labels[""]`},
		"a label's key must not have a blank":                      {change: label("a b", "value"), field: `the key of labels["a b"]`},
		"a label's value may be empty":                             {change: label("k", "")},
		"a label's value of 256 bytes is the longest":              {change: label("k", strings.Repeat("v", 256))},
		"a label's value of 257 bytes is too long":                 {change: label("k", strings.Repeat("v", 257)), field: `labels["k"]`},
		"a label's value must be valid UTF-8":                      {change: label("k", "\xc3"), field: `labels["k"]`},
		"a label's value must not have a control character in it":  {change: label("k", "\x00"), field: `labels["k"]`},
		"a node may be active":                                     {change: inState(domain.Active)},
		"a node may be draining":                                   {change: inState(domain.Draining)},
		"a node may be down":                                       {change: inState(domain.Down)},
		"a state that is given must not be empty":                  {change: inState(""), field: "state"},
		"a state is written in small letters":                      {change: inState("Active"), field: "state"},
		"a time to live of a second is the shortest":               {change: ttl(1)},
		"a time to live of a day is the longest":                   {change: ttl(86_400)},
		"a time to live over a day is refused":                     {change: ttl(86_401), field: "ttlSeconds"},
		"a time to live that is given must not be 0":               {change: ttl(0), field: "ttlSeconds"},
		"a time to live under 0 is refused":                        {change: ttl(-1), field: "ttlSeconds"},
		"a node may be removed when its time is over":              {change: leased(domain.RemoveOnExpiry)},
		"a node may be down when its time is over":                 {change: leased(domain.DownOnExpiry)},
		"a node that stays for ever may say what its end would be": {change: end(domain.DownOnExpiry)},
		"an end that is given must not be empty":                   {change: end(""), field: "onExpiry"},
		"an end is written in small letters":                       {change: end("Remove"), field: "onExpiry"},
		"a state is no end":                                        {change: end("draining"), field: "onExpiry"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			spec := domain.NodeSpec{ID: "node0", Address: "10.0.0.5:11211"}
			test.change(&spec)
			n, err := domain.NewCacheNode(spec)
			if test.field == "" {
				if err != nil {
					t.Fatalf("NewCacheNode = %v, want success", err)
				}
				if n.ID != spec.ID || n.Address != spec.Address || n.Zone != spec.Zone || !maps.Equal(n.Labels, spec.Labels) ||
					spec.Pool != nil && n.Pool != *spec.Pool || spec.Weight != nil && n.Weight != *spec.Weight ||
					spec.State != nil && n.State != *spec.State || spec.TTLSeconds != nil && n.TTLSeconds != *spec.TTLSeconds ||
					spec.OnExpiry != nil && n.OnExpiry != *spec.OnExpiry {
					t.Fatalf("NewCacheNode = %+v, want the values of the spec", n)
				}
				return
			}
			var invalid *domain.InvalidError
			if !errors.Is(err, domain.ErrInvalid) || !errors.As(err, &invalid) {
				t.Fatalf("NewCacheNode = %v, want an InvalidError", err)
			}
			if invalid.Field != test.field {
				t.Errorf("field of the error = %q, want %q: %v", invalid.Field, test.field, err)
			}
			if !strings.HasPrefix(err.Error(), test.field+" ") {
				t.Errorf("error = %v, want the field as its prefix", err)
			}
			mustEqual(t, "a refused node", n, domain.CacheNode{})
		})
	}
}

func TestNewCacheNodeFillsInDefaults(t *testing.T) {
	mustEqual(t, "a node of which only the least is said", node(t, "a", "h:1"), domain.CacheNode{
		ID: "a", Address: "h:1", Pool: "default", Weight: 100, State: domain.Active, OnExpiry: domain.RemoveOnExpiry,
	})
}

// An empty map of labels would become nil when it is written and read back.
func TestANodeWithoutLabelsHasNoMap(t *testing.T) {
	if n := node(t, "a", "h:1", func(s *domain.NodeSpec) { s.Labels = map[string]string{} }); n.Labels != nil {
		t.Errorf("labels = %#v, want nil", n.Labels)
	}
}

func TestNewCacheNodeReportsAllFaults(t *testing.T) {
	weight, pool, state, ttl, end := -1, "-", domain.State("gone"), 0, domain.OnExpiry("explode")
	_, err := domain.NewCacheNode(domain.NodeSpec{
		ID: "/", Address: "nowhere", Pool: &pool, Weight: &weight, Zone: "\x00", State: &state,
		Labels: map[string]string{"b": "\x01", "a": "\x02"}, TTLSeconds: &ttl, OnExpiry: &end,
	})
	if err == nil {
		t.Fatal("NewCacheNode = nil, want an error")
	}
	at := -1
	for _, field := range []string{
		"id ", "address ", "pool ", "zone ", "weight ", "state ", "onExpiry ", `labels["a"] `, `labels["b"] `, "ttlSeconds ",
	} {
		next := strings.Index(err.Error(), field)
		if next <= at {
			t.Fatalf("error does not name %q, or not in this order: %v", field, err)
		}
		at = next
	}
}

func TestNewCacheNodeSharesNothingWithItsSpec(t *testing.T) {
	labels := map[string]string{"rack": "r7"}
	n := node(t, "a", "h:1", func(s *domain.NodeSpec) { s.Labels = labels })
	labels["rack"] = "r8"
	if n.Labels["rack"] != "r7" {
		t.Fatal("the node shares its labels with the caller")
	}
}

func TestExpires(t *testing.T) {
	tests := map[string]struct {
		change func(*domain.NodeSpec)
		want   bool
	}{
		"a node without a time to live does not expire": {func(*domain.NodeSpec) {}, false},
		"a node with an expiry but without a time to live does not expire": {func(s *domain.NodeSpec) {
			leased(domain.DownOnExpiry)(s)
			s.TTLSeconds = nil
		}, false},
		"a node with a time to live expires":    {leased(domain.RemoveOnExpiry), true},
		"a node that expiry makes down expires": {leased(domain.DownOnExpiry), true},
		"a draining node that expiry makes down expires": {func(s *domain.NodeSpec) {
			leased(domain.DownOnExpiry)(s)
			inState(domain.Draining)(s)
		}, true},
		"a node that is down and that expiry makes down does not expire": {func(s *domain.NodeSpec) {
			leased(domain.DownOnExpiry)(s)
			inState(domain.Down)(s)
		}, false},
		"a node that is down and that expiry removes expires": {func(s *domain.NodeSpec) {
			leased(domain.RemoveOnExpiry)(s)
			inState(domain.Down)(s)
		}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n := node(t, "a", "h:1", test.change)
			if got := n.Expires(); got != test.want {
				t.Errorf("Expires of %+v = %v, want %v", n, got, test.want)
			}
		})
	}
}

// wireNode is a node as it is sent to clients.
type wireNode struct {
	ID              string            `json:"id"`
	Address         string            `json:"address"`
	Pool            string            `json:"pool"`
	Weight          int               `json:"weight"`
	Zone            string            `json:"zone"`
	Labels          map[string]string `json:"labels"`
	State           string            `json:"state"`
	TTLSeconds      int               `json:"ttlSeconds"`
	OnExpiry        string            `json:"onExpiry"`
	Slot            int               `json:"slot"`
	CreatedRevision domain.Revision   `json:"createdRevision"`
	Revision        domain.Revision   `json:"revision"`
}

// bytesOfEvent returns the length of an event with this node as the node and as the
// previous node.
func bytesOfEvent(t fataler, n domain.CacheNode) int {
	t.Helper()
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	most := ^domain.Revision(0)
	wire := wireNode{n.ID, n.Address, n.Pool, n.Weight, n.Zone, n.Labels, string(n.State), 86400, "remove", 249_999, most, most}
	if err := encoder.Encode([]wireNode{wire, wire}); err != nil {
		t.Fatalf("encode: %v", err)
	}
	return text.Len()
}

const roomInAnEvent = 60_000

// text draws strings of the characters that take the most space in JSON, and of any others.
func text(limit int) *rapid.Generator[string] {
	r := rapid.OneOf(rapid.SampledFrom([]rune{'"', '\\', '\u2028', '\u2029', '\ufffd', '<', 'a'}), rapid.Rune())
	return rapid.OneOf(
		rapid.StringOfN(r, 0, -1, limit),
		rapid.Map(r, func(r rune) string { return strings.Repeat(string(r), limit/len(string(r))) }),
	)
}

func TestAnyAcceptedNodeFitsTwiceIntoAnEvent(t *testing.T) {
	key := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._:-]{0,127}`)
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		n, err := domain.NewCacheNode(domain.NodeSpec{
			ID:      key.Draw(t, "id"),
			Address: "node.example.org:11211",
			Zone:    text(domain.MaxZoneBytes).Draw(t, "zone"),
			Labels:  rapid.MapOfN(key, text(domain.MaxLabelValueBytes), 0, domain.MaxLabels).Draw(t, "labels"),
		})
		if err != nil {
			return
		}
		accepted++
		if size := bytesOfEvent(t, n); size >= roomInAnEvent {
			t.Fatalf("size of an event = %d bytes, want less than %d", size, roomInAnEvent)
		}
	})
	if accepted == 0 {
		t.Error("no node was accepted, so nothing was examined")
	}
}

func TestTheGreatestNodeFitsTwiceIntoAnEvent(t *testing.T) {
	for _, c := range []string{`"`, `\`, "\u2028", "😀", "<"} {
		t.Run(fmt.Sprintf("all text is %q", c), func(t *testing.T) {
			n := greatest(t, "n", strings.Repeat("h.", 126)+"h:11211", c)
			if size := bytesOfEvent(t, n); size >= roomInAnEvent {
				t.Fatalf("size of an event = %d bytes, want less than %d", size, roomInAnEvent)
			}
		})
	}
}

// greatest returns a node with every attribute at its limit, with its text made of c.
func greatest(t fataler, id, address, c string) domain.CacheNode {
	t.Helper()
	return node(t, id+strings.Repeat("i", domain.MaxIDBytes-len(id)), address, func(spec *domain.NodeSpec) {
		*spec = domain.NodeSpec{ID: spec.ID, Address: spec.Address, Labels: map[string]string{}}
		inPool(strings.Repeat("p", domain.MaxIDBytes))(spec)
		weighing(domain.MaxWeight)(spec)
		spec.Zone = strings.Repeat(c, domain.MaxZoneBytes/len(c))
		for i := range domain.MaxLabels {
			key := fmt.Sprintf("%02d", i)
			spec.Labels[key+strings.Repeat("k", domain.MaxIDBytes-len(key))] = strings.Repeat(c, domain.MaxLabelValueBytes/len(c))
		}
	})
}
