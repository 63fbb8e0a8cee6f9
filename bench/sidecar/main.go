// Command sidecar is the plain Caddy of bench/plain with the one module more
// that is being measured.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-bearer/caddy-bearer/caddymodule"
)

func main() { caddycmd.Main() }
