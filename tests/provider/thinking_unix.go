//go:build unix

package provider

import (
	"errors"
	"net"
	"syscall"
)

// closedByPeer asks the kernel whether a connection was closed at the other end.
func closedByPeer(c net.Conn) bool {
	over, ok := c.(syscall.Conn)
	if !ok {
		return false // TLS: the request's context will tell
	}
	raw, err := over.SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	_ = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n <= 0 && !errors.Is(err, syscall.EAGAIN)
	})
	return closed
}
