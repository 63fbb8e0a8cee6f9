// Command plain is the yardstick: Caddy with its standard modules and nothing
// else, built from the same go.mod as the sidecar that is measured against it.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() { caddycmd.Main() }
