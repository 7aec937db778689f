package domain_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nodesmetadata/nodesmetadata/domain"
)

func TestCheckAddress(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 49)+".", 5) // 250 bytes
	tests := map[string]struct {
		address string
		valid   bool
	}{
		"a host may be a name":                           {"cache-1.example.org:11211", true},
		"a host may be a name of one label":              {"cache:11211", true},
		"a host may have capitals":                       {"Cache.Example:1", true},
		"a host may have underscores, as containers do":  {"my_stack_cache_1:1", true},
		"a host may end with a dot":                      {"cache.example.org.:1", true},
		"a host may begin with a digit":                  {"3com.com:1", true},
		"a label of 63 bytes is the longest":             {strings.Repeat("a", 63) + ".b:1", true},
		"a label of 64 bytes is too long":                {strings.Repeat("a", 64) + ".b:1", false},
		"a name of 253 bytes is the longest":             {long + "abc:1", true},
		"a name of 254 bytes is too long":                {long + "abcd:1", false},
		"a host must not be empty":                       {":11211", false},
		"a host must not be a dot":                       {".:11211", false},
		"a host must not have an empty label":            {"a..b:1", false},
		"a host must not begin with a dot":               {".a:1", false},
		"a host must not end with two dots":              {"a..:1", false},
		"a label must not begin with a dash":             {"a.-b:1", false},
		"a label must not end with a dash":               {"a-.b:1", false},
		"a host must not have a blank":                   {"a b:1", false},
		"a host must not have a letter beyond ASCII":     {"é:1", false},
		"a host must not have a slash":                   {"http://a:1", false},
		"a host must not have a user":                    {"me@a:1", false},
		"a host may be an IPv4 address":                  {"10.0.0.5:11211", true},
		"an IPv4 address has no number over 255":         {"10.0.0.256:1", false},
		"an IPv4 address has four numbers":               {"10.0.0:1", false},
		"an IPv4 address has no more than four numbers":  {"10.0.0.0.1:1", false},
		"an IPv4 address has no leading zeros":           {"10.0.0.05:1", false},
		"an IPv4 address has no dot at its end":          {"10.0.0.5.:1", false},
		"an IPv4 address stands in no brackets":          {"[10.0.0.5]:1", false},
		"a number alone is no host":                      {"1:1", false},
		"a host may be an IPv6 address in brackets":      {"[2001:db8::1]:11211", true},
		"a host may be the IPv6 loopback":                {"[::1]:1", true},
		"a host may be an IPv4 address written as IPv6":  {"[::ffff:10.0.0.5]:1", true},
		"an IPv6 address needs brackets":                 {"2001:db8::1:11211", false},
		"an IPv6 address needs both brackets":            {"[::1:11211", false},
		"an IPv6 address needs all its parts":            {"[1:2]:1", false},
		"a zone is of one machine and not of an address": {"[fe80::1%eth0]:1", false},
		"a name stands in no brackets":                   {"[cache]:1", false},
		"brackets must not be empty":                     {"[]:1", false},
		"an IPv6 address must have a port":               {"[::1]", false},
		"the address must have a port":                   {"cache", false},
		"the port must not be empty":                     {"cache:", false},
		"the lowest port is 1":                           {"cache:1", true},
		"port 0 is invalid":                              {"cache:0", false},
		"the highest port is 65535":                      {"cache:65535", true},
		"port 65536 is invalid":                          {"cache:65536", false},
		"a port has no leading zero":                     {"cache:080", false},
		"a port has no sign":                             {"cache:+80", false},
		"a port is not under zero":                       {"cache:-80", false},
		"a port is a number":                             {"cache:http", false},
		"a port is decimal":                              {"cache:0x50", false},
		"a port has no underscore":                       {"cache:1_0", false},
		"a port has no blank":                            {"cache: 80", false},
		"an empty address is invalid":                    {"", false},
		"a colon is no address":                          {":", false},
		"a wildcard is a valid address":                  {"0.0.0.0:80", true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := domain.CheckAddress("where", test.address)
			var invalid *domain.InvalidError
			switch {
			case test.valid && err != nil:
				t.Fatalf("CheckAddress = %v, want no error", err)
			case !test.valid && (!errors.As(err, &invalid) || !errors.Is(err, domain.ErrInvalid)):
				t.Fatalf("CheckAddress(%q) = %v, want an InvalidError", test.address, err)
			case !test.valid && invalid.Field != "where":
				t.Fatalf("field of the error = %q, want where", invalid.Field)
			}
		})
	}
}

func TestAWildcardCannotBeAdvertised(t *testing.T) {
	tests := map[string]struct {
		address string
		want    bool
	}{
		"the IPv4 wildcard":                 {"0.0.0.0:1", true},
		"the IPv6 wildcard":                 {"[::]:1", true},
		"the IPv6 wildcard in full":         {"[0:0:0:0:0:0:0:0]:1", true},
		"the IPv4 wildcard written as IPv6": {"[::ffff:0.0.0.0]:1", true},
		"an IPv4 address is no wildcard":    {"127.0.0.1:1", false},
		"an IPv6 address is no wildcard":    {"[::1]:1", false},
		"a name is no wildcard":             {"localhost:1", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := domain.CheckAdvertisedAddress("where", test.address); (err != nil) != test.want {
				t.Errorf("CheckAdvertisedAddress(%q) = %v, want an error: %v", test.address, err, test.want)
			}
		})
	}
	if err := domain.CheckAdvertisedAddress("where", "nowhere"); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("CheckAdvertisedAddress of an invalid address = %v, want %v", err, domain.ErrInvalid)
	}
}

// However an address is spelled, it has one owner.
func TestDifferentSpellingsAreOneAddress(t *testing.T) {
	tests := map[string]struct {
		first, second string
		same          bool
	}{
		"the case of a name does not count":          {"cache.example:1", "CACHE.Example:1", true},
		"a dot at the end of a name does not count":  {"cache.example:1", "cache.example.:1", true},
		"zeros of an IPv6 address do not count":      {"[2001:db8::1]:1", "[2001:0db8:0:0:0:0:0:0001]:1", true},
		"the case of an IPv6 address does not count": {"[2001:db8::a]:1", "[2001:DB8::A]:1", true},
		"an IPv4 address written as IPv6 is itself":  {"10.0.0.1:1", "[::ffff:10.0.0.1]:1", true},
		"one host has many ports":                    {"10.0.0.1:1", "10.0.0.1:2", false},
		"one port is on many hosts":                  {"10.0.0.1:1", "10.0.0.2:1", false},
		"a name is not resolved":                     {"localhost:1", "127.0.0.1:1", false},
		"host and port are not mixed up":             {"a1:1", "a:11", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := registryOf(t, put(node(t, "a", test.first)))
			_, err := r.Apply(put(node(t, "b", test.second)))
			if errors.Is(err, domain.ErrAddressInUse) != test.same {
				t.Fatalf("%s and %s: error = %v, want the same address: %v", test.first, test.second, err, test.same)
			}
		})
	}
}
