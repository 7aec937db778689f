package httpapi

import (
	"maps"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

// Nodes and changes are most of what this API encodes, so they are encoded by hand: several
// times faster than by reflection. A test compares the result with that of the JSON library.

// appendNode appends n as the API shows it.
func appendNode(b []byte, n *domain.CacheNode) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, n.ID)
	b = append(b, `,"address":`...)
	b = appendString(b, n.Address)
	b = append(b, `,"pool":`...)
	b = appendString(b, n.Pool)
	b = append(b, `,"weight":`...)
	b = strconv.AppendInt(b, int64(n.Weight), 10)
	if n.Zone != "" {
		b = append(b, `,"zone":`...)
		b = appendString(b, n.Zone)
	}
	if len(n.Labels) > 0 {
		b = append(b, `,"labels":{`...)
		b = appendLabels(b, n.Labels)
		b = append(b, '}')
	}
	b = append(b, `,"state":`...)
	b = appendString(b, string(n.State))
	if n.TTLSeconds > 0 {
		b = append(b, `,"ttlSeconds":`...)
		b = strconv.AppendInt(b, int64(n.TTLSeconds), 10)
	}
	if n.TTLSeconds > 0 || n.OnExpiry != domain.RemoveOnExpiry {
		b = append(b, `,"onExpiry":`...)
		b = appendString(b, string(n.OnExpiry))
	}
	b = append(b, `,"slot":`...)
	b = strconv.AppendInt(b, int64(n.Slot), 10)
	b = append(b, `,"createdRevision":`...)
	b = strconv.AppendUint(b, uint64(n.CreatedRevision), 10)
	b = append(b, `,"revision":`...)
	b = strconv.AppendUint(b, uint64(n.Revision), 10)
	return append(b, '}')
}

func appendLabels(b []byte, labels map[string]string) []byte {
	var room [domain.MaxLabels]string
	keys := slices.AppendSeq(room[:0], maps.Keys(labels))
	slices.Sort(keys)
	for i, key := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, key)
		b = append(b, ':')
		b = appendString(b, labels[key])
	}
	return b
}

// appendMember appends n as a member of the object from id to node.
func appendMember(b []byte, n *domain.CacheNode) []byte {
	b = appendString(b, n.ID)
	b = append(b, ':')
	return appendNode(b, n)
}

// appendString appends s in quotes. Nearly all strings are plain ASCII.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			// The error says that s was not valid UTF-8; invalid bytes are replaced by U+FFFD
			// then.
			b, _ = jsontext.AppendQuote(b, s)
			return b
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendChange appends the data of the event that tells of c.
func appendChange(b []byte, c *domain.Change) []byte {
	b = append(b, `{"revision":`...)
	b = strconv.AppendUint(b, uint64(c.Revision), 10)
	b = append(b, `,"type":`...)
	b = appendString(b, string(c.Effect))
	b = append(b, `,"node":`...)
	b = appendNode(b, c.Node)
	if c.Previous != nil {
		b = append(b, `,"previous":`...)
		b = appendNode(b, c.Previous)
	}
	b = append(b, `,"reason":`...)
	b = appendString(b, string(c.Reason))
	return append(b, '}')
}
