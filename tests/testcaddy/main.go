// Command testcaddy is Caddy with the module in it, for tests that need a process of its own: one that can be killed.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-bearer/caddy-bearer/caddymodule"
)

func main() { caddycmd.Main() }
