// Package plainhttp holds the one rule on what may be sent over plain http.
package plainhttp

import (
	"net/netip"
	"slices"
	"strings"
)

// Allowed reports whether tokens and other secrets may go to a host over plain
// http: to this host, or to one that is allowed by name. host comes without a
// port.
func Allowed(host string, allowed []string) bool {
	return Loopback(host) || slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, host) })
}

// Loopback reports whether what is sent to a host stays on this one: to an
// address of the loopback, or to localhost. A name under localhost is not
// certain to: where the resolver does not keep to RFC 6761, section 6.3, it asks
// the DNS, and goes where that says.
func Loopback(host string) bool {
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return addr.Unmap().IsLoopback()
	}
	host = strings.TrimSuffix(host, ".")
	return host == "" || strings.EqualFold(host, "localhost")
}
