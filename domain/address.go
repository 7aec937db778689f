package domain

import (
	"net/netip"
	"strconv"
	"strings"
)

// CheckAddress reports an error (InvalidError about field) unless address is
// host:port, where host is a name, an IPv4 address or an IPv6 address in brackets,
// and port is 1 to 65535.
func CheckAddress(field, address string) error {
	host, port, bracketed, ok := splitAddress(address)
	if !ok {
		return invalid(field, "must be host:port, with an IPv6 host in brackets: %q", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
		return invalid(field, "needs a port from 1 to 65535: %q", address)
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case bracketed && (err != nil || !ip.Is6() || ip.Zone() != ""):
		return invalid(field, "has brackets around what is no IPv6 address: %q", address)
	case bracketed || err == nil && ip.Is4():
		return nil
	case !isHostName(host):
		return invalid(field, "has a host that is neither a name nor an IP address: %q", address)
	}
	return nil
}

// isWildcard reports whether a valid address means every interface of a machine
// (0.0.0.0, ::), which is an address to listen on but not one to dial.
func isWildcard(address string) bool {
	host, _, _, _ := splitAddress(address)
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsUnspecified()
}

// canonicalAddress maps all spellings of a valid address to one string, so that
// neither the case of a name nor the zeros of an IPv6 address get around the
// rule that an address belongs to one node.
func canonicalAddress(address string) string {
	host, port, _, _ := splitAddress(address)
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String() + " " + port
	}
	return strings.ToLower(strings.TrimSuffix(host, ".")) + " " + port
}

func splitAddress(address string) (host, port string, bracketed, ok bool) {
	colon := strings.LastIndexByte(address, ':')
	if colon < 0 || colon == len(address)-1 {
		return "", "", false, false
	}
	host, port = address[:colon], address[colon+1:]
	if len(host) >= 2 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1], port, true, true
	}
	return host, port, false, host != "" && !strings.Contains(host, ":")
}

// isHostName follows RFC 1123, and also allows the underscore that container
// platforms use. It refuses a name whose last label is a number: that is a mistyped
// IPv4 address.
func isHostName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return false
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !isAlphanumeric(c) && c != '-' && c != '_' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}
