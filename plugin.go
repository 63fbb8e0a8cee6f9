// Package caddybearer is the package to name to xcaddy:
//
//	xcaddy build --with github.com/caddy-bearer/caddy-bearer
//
// Importing it adds the modules of package caddymodule to Caddy.
package caddybearer

import (
	_ "github.com/caddy-bearer/caddy-bearer/caddymodule" // registers the modules
)
