package rig

import (
	"fmt"
	"time"

	"github.com/caddy-bearer/caddy-bearer/tests/provider"
)

// StartProvider starts a provider whose refresh tokens rotate, with access tokens that live for so many whole seconds. A
// used refresh token revokes the whole grant, and one is used up even if its client hangs up before the answer.
func StartProvider(lifetime time.Duration) (*provider.Server, error) {
	if lifetime < time.Second || lifetime%time.Second != 0 {
		return nil, fmt.Errorf("lifetime %v: expected whole seconds", lifetime)
	}
	p := provider.New(provider.Generic)
	p.SetRotate(true)
	p.SetLifetime(lifetime)
	p.SetClientAuth("client_secret_basic")
	p.SetForgetful(true)
	return provider.Start(p)
}
