package caddymodule

import (
	"context"
	"net/netip"
	"strings"
	"testing"
)

func TestPublicAddresses(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "64:ff9b::808:808": true, "2002:808:808::1": true, "::ffff:8.8.8.8": true,

		"0.0.0.0": false, "10.0.0.1": false, "100.64.0.1": false, "127.0.0.1": false, "127.1.2.3": false, "169.254.169.254": false,
		"172.16.0.1": false, "172.31.255.255": false, "192.0.0.1": false, "192.168.0.1": false, "198.18.0.1": false, "224.0.0.1": false,
		"240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false, "::7f00:1": false, "fe80::1": false, "fc00::1": false,
		"fd00:ec2::254": false, "ff02::1": false, "fec0::1": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2002:a00:1::1": false,
		"2001:db8::1": false, "2001::1": false, "100::1": false,
	} {
		if got := public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is public: %v, want %v", text, got, want)
		}
	}
}

// TestGuardedDialer: the address that a name leads to is checked, and not the name.
func TestGuardedDialer(t *testing.T) {
	for _, address := range []string{"localhost:1", "127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "169.254.169.254:80", "0.0.0.0:1"} {
		_, err := newGuardedDialer(nil, nil, 0, 0).DialContext(context.Background(), "tcp", address)
		if err == nil || !strings.Contains(err.Error(), errProhibited.Error()) {
			t.Errorf("%s: %v, want %v", address, err, errProhibited)
		}
	}
	_, err := newGuardedDialer(loopbackRanges, nil, 0, 0).DialContext(context.Background(), "tcp", "127.0.0.1:1")
	if err == nil || strings.Contains(err.Error(), errProhibited.Error()) {
		t.Errorf("an allowed address: %v, want a refused connection", err)
	}
}

// TestEnvironmentProxies: the sidecar's own proxy may be at a private address.
func TestEnvironmentProxies(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://10.0.0.1:3128")
	t.Setenv("HTTP_PROXY", "proxy.example")
	got := environmentProxies()
	if strings.Join(got, " ") != "proxy.example:80 10.0.0.1:3128" {
		t.Errorf("%q", got)
	}
}
