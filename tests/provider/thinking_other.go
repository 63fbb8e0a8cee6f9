//go:build !unix

package provider

import "net"

// closedByPeer leaves it to the request's context to tell.
func closedByPeer(net.Conn) bool { return false }
